"""One file of each kind that people own, made here, and the ways a file can be wrong."""

from __future__ import annotations

import io
import multiprocessing
import zipfile
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from metrixkit.data.decode import container, decode, image_to_tensor
from metrixkit.errors import InputError

RED, WHITE = [255, 0, 0], [255, 255, 255]


def ramp(height=24, width=40):
    """A colour picture that no flip or turn maps to itself."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 6, y * 10, (x + y) * 3], axis=2).astype(np.uint8)


def tensor_of(array):
    return torch.from_numpy(array).permute(2, 0, 1)


def save(tmp_path, image, name, **options):
    path = tmp_path / name
    image.save(path, **options)
    return path


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "ppm", "tga"])
def test_lossless_colour_is_exact(tmp_path, suffix):
    image = decode(save(tmp_path, Image.fromarray(ramp()), f"a.{suffix}"))
    assert image.dtype == torch.uint8
    assert image.is_contiguous()
    assert torch.equal(image, tensor_of(ramp()))


@pytest.mark.parametrize("as_type", [str, lambda p: p, lambda p: p.read_bytes()])
def test_takes_paths_strings_and_bytes(tmp_path, as_type):
    assert torch.equal(decode(as_type(save(tmp_path, Image.fromarray(ramp()), "a.png"))), tensor_of(ramp()))


@pytest.mark.parametrize("suffix", ["jpg", "webp"])
def test_lossy_formats_are_close(tmp_path, suffix):
    image = decode(save(tmp_path, Image.fromarray(ramp()), f"a.{suffix}", quality=95))
    assert (image.float() - tensor_of(ramp()).float()).abs().mean() < 4


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "jpg", "tif"])
def test_exif_orientation_is_undone(tmp_path, orientation, suffix):
    # What a camera held that way stores: the inverse of what a viewer must do.
    stored = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
        8: lambda a: np.rot90(a, -1),
    }[orientation](ramp())
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 100, "subsampling": 0} if suffix == "jpg" else {}
    path = save(tmp_path, Image.fromarray(np.ascontiguousarray(stored)), f"a.{suffix}", exif=exif, **options)
    image = decode(path)
    assert image.shape == (3, 24, 40)
    assert (image.int() - tensor_of(ramp()).int()).abs().max() <= (4 if suffix == "jpg" else 0)


# Pillow tells of the damage by a warning, which is left to be seen.
@pytest.mark.filterwarnings("ignore:Corrupt EXIF data:UserWarning")
def test_broken_exif_does_not_lose_the_image(tmp_path):
    path = save(tmp_path, Image.fromarray(ramp()), "a.jpg", exif=b"Exif\x00\x00II*\x00\x08\x00\x00\x00\xff\xff")
    assert decode(path).shape == (3, 24, 40)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bit_grey_is_scaled_by_its_full_range(tmp_path, suffix):
    values = np.array([[0, 255, 256], [32768, 65280, 65535]], dtype=np.uint16)
    image = decode(save(tmp_path, Image.fromarray(values), f"a.{suffix}"))
    assert image.shape == (3, 2, 3)
    assert image[0].tolist() == image[2].tolist() == [[0, 0, 1], [128, 255, 255]]


def test_sixteen_bit_colour_agrees_with_grey(tmp_path):
    def chunk(kind, data):
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    row = b"\x00" + np.array([[0, 300, 65535], [32768, 32768, 32768]], dtype=">u2").tobytes()
    head = (2).to_bytes(4, "big") + (1).to_bytes(4, "big") + bytes([16, 2, 0, 0, 0])
    content = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(row)) + chunk(b"IEND", b"")
    assert decode(content)[:, 0].T.tolist() == [[0, 1, 255], [128, 128, 128]]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0, 0.5, 1.0], [0, 128, 255]),  # unit range
        ([0.0, 127.0, 255.0], [0, 127, 255]),  # bytes kept as floats
        ([0.0, 32768.0, 65535.0], [0, 128, 255]),  # sixteen bits kept as floats
        ([-1.0, 0.0, 1.0], [0, 128, 255]),  # no range of its own: stretched
        ([-3.0, -3.0, -3.0], [0, 0, 0]),  # and a constant does not divide by zero
    ],
)
def test_float_tiff_range(tmp_path, values, expected):
    image = decode(save(tmp_path, Image.fromarray(np.array([values], dtype=np.float32)), "a.tif"))
    assert image[1, 0].tolist() == expected


def test_wide_integers(tmp_path):
    image = decode(save(tmp_path, Image.fromarray(np.array([[0, 256, 65535]], dtype=np.int32)), "a.tif"))
    assert image[0, 0].tolist() == [0, 1, 255]


def test_float_tiff_with_nan_is_refused(tmp_path):
    path = save(tmp_path, Image.fromarray(np.array([[0.0, np.nan]], dtype=np.float32)), "a.tif")
    with pytest.raises(InputError, match=r"a\.tif: 1 of 2 pixels are NaN"):
        decode(path)


def transparent(mode):
    rgba = Image.new("RGBA", (2, 1), (255, 0, 0, 255))
    rgba.putpixel((1, 0), (0, 0, 0, 0))
    if mode != "P":
        return rgba.convert(mode), {}
    palette = Image.new("P", (2, 1), 0)
    palette.putpalette([255, 0, 0, 0, 0, 0])
    palette.putpixel((1, 0), 1)
    return palette, {"transparency": 1}


@pytest.mark.parametrize(("mode", "suffix"), [("RGBA", "png"), ("RGBA", "webp"), ("P", "png"), ("P", "gif")])
def test_transparency_is_composed_on_white(tmp_path, mode, suffix):
    image, options = transparent(mode)
    if suffix == "webp":
        options = {"lossless": True}
    image = decode(save(tmp_path, image, f"a.{suffix}", **options))
    assert image[:, 0].T.tolist() == [RED, WHITE]


def test_half_transparent_grey(tmp_path):
    image = Image.new("LA", (1, 1), (0, 128))
    assert 126 <= int(decode(save(tmp_path, image, "a.png"))[0]) <= 128


def test_transparent_colour_key(tmp_path):
    image = Image.new("RGB", (2, 1), (255, 0, 0))
    image.putpixel((1, 0), (0, 0, 0))
    path = save(tmp_path, image, "a.png", transparency=(0, 0, 0))
    assert decode(path)[:, 0].T.tolist() == [RED, WHITE]


@pytest.mark.parametrize("suffix", ["jpg", "tif"])
def test_cmyk(tmp_path, suffix):
    # Pillow writes the Adobe marker and, as Adobe does, inverted inks into JPEG.
    path = save(tmp_path, Image.new("CMYK", (8, 8), (0, 255, 255, 0)), f"a.{suffix}")
    red = decode(path)[:, 4, 4].tolist()
    assert red[0] > 245
    assert max(red[1:]) < 10


@pytest.mark.parametrize("mode", ["YCbCr", "LAB", "HSV"])
def test_other_colour_spaces(tmp_path, mode):
    if mode == "LAB":
        image = Image.new("LAB", (4, 4), (136, 208, 195))  # sRGB red: L 53, a 80, b 67, in eight bits
        red = decode(save(tmp_path, image, "a.tif"))[:, 0, 0].tolist()
    else:
        red = image_to_tensor(Image.new("RGB", (4, 4), (255, 0, 0)).convert(mode))[:, 0, 0].tolist()
    assert red[0] > 245
    assert max(red[1:]) < 15


def test_ycbcr_tiff(tmp_path):
    path = save(tmp_path, Image.new("RGB", (16, 16), (255, 0, 0)).convert("YCbCr"), "a.tif")
    red = decode(path)[:, 0, 0].tolist()
    assert red[0] > 245
    assert max(red[1:]) < 10


@pytest.mark.parametrize("mode", ["L", "1", "P"])
def test_grey_bits_and_palette(tmp_path, mode):
    grey = Image.fromarray(np.array([[0, 255], [255, 0]], dtype=np.uint8))
    image = decode(save(tmp_path, grey.convert(mode), "a.png"))
    assert image.shape == (3, 2, 2)
    assert image.unique().tolist() == [0, 255]
    assert image[0].tolist() == [[0, 255], [255, 0]]


@pytest.mark.parametrize("suffix", ["gif", "png", "webp", "tif"])
def test_first_frame_of_an_animation(tmp_path, suffix):
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue", "lime")]
    options = {"lossless": True} if suffix == "webp" else {}
    path = save(tmp_path, frames[0], f"a.{suffix}", save_all=True, append_images=frames[1:], **options)
    assert decode(path)[:, 0, 0].tolist() == RED


def truncated(path):
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3])
    return path


@pytest.mark.parametrize("suffix", ["jpg", "png", "gif", "tif", "webp", "bmp"])
def test_truncated_file_names_itself(tmp_path, suffix):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    path = truncated(save(tmp_path, Image.fromarray(noise), f"half.{suffix}"))
    with pytest.raises(InputError, match=rf"half\.{suffix}: "):
        decode(path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"<html>not found</html>", "not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n\n", "EPS"),
    ],
)
def test_what_is_no_image(tmp_path, content, reason):
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(InputError, match=rf"a\.jpg: .*{reason}"):
        decode(tmp_path / "a.jpg")


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        decode(tmp_path / "a.jpg")
    with pytest.raises(InputError, match="cannot be read"):
        decode(tmp_path)


@pytest.mark.parametrize("factor", [1.5, 3])
def test_decompression_bomb_is_an_error(tmp_path, monkeypatch, factor):
    path = save(tmp_path, Image.new("1", (100, 100)), "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", int(100 * 100 / factor))
    with pytest.raises(InputError, match=r"bomb\.png: more than .* million pixels"):
        decode(path)


@pytest.mark.filterwarnings("ignore")
def test_bomb_is_an_error_where_warnings_are_none(tmp_path, monkeypatch):
    path = save(tmp_path, Image.new("1", (100, 100)), "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 6000)
    with pytest.raises(InputError, match="million pixels"):
        decode(path)


@pytest.fixture
def archive(tmp_path):
    path = tmp_path / "some.zip"
    with zipfile.ZipFile(path, "w") as file:
        for i in range(30):
            buffer = io.BytesIO()
            # Noise, so that each is larger than a read-ahead buffer.
            pixels = np.random.default_rng(i).integers(0, 256, (64, 64, 3), dtype=np.uint8)
            pixels[0, 0] = (i, 0, 0)
            Image.fromarray(pixels).save(buffer, "PNG")
            file.writestr(f"folder/{i}.png", buffer.getvalue())
        file.writestr("broken.png", b"\x89PNG\r\n\x1a\n")
    return path


def test_zip_member(archive):
    assert decode(f"{archive}!folder/7.png")[:, 0, 0].tolist() == [7, 0, 0]
    assert container(f"{archive}!folder/7.png") == str(archive)


def test_zip_errors(archive, tmp_path):
    with pytest.raises(InputError, match=r"some\.zip: holds no member 'folder/99.png'"):
        decode(f"{archive}!folder/99.png")
    with pytest.raises(InputError, match=r"some\.zip!broken\.png: "):
        decode(f"{archive}!broken.png")
    with pytest.raises(InputError, match="no such file"):
        decode(f"{tmp_path}/none.zip!a.png")
    (tmp_path / "bad.zip").write_bytes(b"PK but not really")
    with pytest.raises(InputError, match=r"bad\.zip!a\.png: cannot be read"):
        decode(f"{tmp_path}/bad.zip!a.png")


def test_replaced_archive_is_opened_anew(archive):
    decode(f"{archive}!folder/1.png")
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (99, 0, 0)).save(buffer, "PNG")
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("folder/1.png", buffer.getvalue())
    assert int(decode(f"{archive}!folder/1.png")[0, 0, 0]) == 99


def _read_all(archive, queue):
    queue.put(all(int(decode(f"{archive}!folder/{i}.png")[0, 0, 0]) == i for _ in range(20) for i in range(30)))


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_forked_workers_do_not_share_the_archives_place(archive):
    decode(f"{archive}!folder/0.png")  # open in the parent, inherited by all
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    workers = [context.Process(target=_read_all, args=(archive, queue)) for _ in range(3)]
    for worker in workers:
        worker.start()
    assert [queue.get() for _ in workers] == [True] * 3
    for worker in workers:
        worker.join()


@pytest.mark.parametrize("shape", [(4, 6, 5), (4, 6, 5, 3)])
def test_array_row(tmp_path, shape):
    rows = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    np.save(tmp_path / "a.npy", rows)
    image = decode(f"{tmp_path}/a.npy#3")
    assert image.shape == (3, 6, 5)
    expected = rows[3] if len(shape) == 4 else np.repeat(rows[3][..., None], 3, axis=2)
    assert torch.equal(image, tensor_of(expected))
    image.zero_()  # the caller's own memory: the file stays as it is
    assert torch.equal(decode(f"{tmp_path}/a.npy#3"), tensor_of(expected))
    with pytest.raises(InputError, match="has 4 rows, row 4"):
        decode(f"{tmp_path}/a.npy#4")


def test_array_of_another_kind(tmp_path):
    np.save(tmp_path / "f.npy", np.zeros((2, 4, 4)))
    with pytest.raises(InputError, match="expected uint8 .* found float64"):
        decode(f"{tmp_path}/f.npy#0")
    np.save(tmp_path / "s.npy", np.zeros((2, 4, 4, 4), dtype=np.uint8))
    with pytest.raises(InputError, match=r"found uint8 of shape \(2, 4, 4, 4\)"):
        decode(f"{tmp_path}/s.npy#0")
    (tmp_path / "t.npy").write_bytes(b"nothing")
    with pytest.raises(InputError, match="cannot be read as a NumPy array"):
        decode(f"{tmp_path}/t.npy#0")
    with pytest.raises(InputError, match="no such file"):
        decode(f"{tmp_path}/none.npy#0")


@pytest.mark.data
def test_real_photograph(shared_data):
    path = next((shared_data / "CUB_200_2011_first50").rglob("*.jpg"))
    image = decode(path)
    assert image.shape[0] == 3
    assert min(image.shape[1:]) > 50
    assert 20 < image.float().mean() < 235
