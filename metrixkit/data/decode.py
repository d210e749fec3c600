"""One image, from whatever people own, as a uint8 RGB tensor.

References are strings, so that a manifest can hold them: a file path, ``archive.zip!folder/member.png`` (read in place)
or ``array.npy#17`` (row 17 of a uint8 array of shape (N, H, W) or (N, H, W, 3), memory-mapped).

Colour profiles are not applied: published numbers in this field are made from the stored values.
"""

from __future__ import annotations

import io
import os
import re
import stat
import zipfile
from functools import lru_cache
from pathlib import Path
from typing import IO, Final

import numpy as np
import torch
from PIL import Image, ImageCms, UnidentifiedImageError
from torch import Tensor

from metrixkit.errors import InputError

_ZIP_MEMBER: Final = re.compile(r"(?P<archive>.+?\.zip)!(?P<member>.+)", re.IGNORECASE | re.DOTALL)
_ARRAY_ROW: Final = re.compile(r"(?P<array>.+\.npy)#(?P<row>\d+)", re.IGNORECASE | re.DOTALL)
_MAX_MEMBER_BYTES: Final = 1 << 30
_LAB: Final = ImageCms.createProfile("LAB")
_SRGB: Final = ImageCms.createProfile("sRGB")
_ORIENTATION_TAG: Final = 0x0112
_HEIF_BRANDS: Final = frozenset((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"))
_AVIF_BRANDS: Final = frozenset((b"avif", b"avis"))
_LFS: Final = b"version https://git-lfs.github.com/"
_TURN: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def decode(reference: str | Path | bytes) -> Tensor:
    """Return an image as it is meant to be looked at.

    Turned as its EXIF orientation says; the first frame of an animation; transparency on white; palette, grey, 1-bit,
    CMYK, YCbCr and LAB converted; 16-bit values by their upper eight bits; 32-bit integers and floats by the rule of
    :func:`image_to_tensor`.

    Args:
        reference: A file path, ``archive.zip!member``, ``array.npy#row``, or the bytes of an image file.

    Returns:
        (3, H, W) uint8, RGB, 0 to 255. Its memory is the caller's own.

    Raises:
        InputError: Missing, truncated, unreadable, or too large to be safe; names the reference and the reason.
    """
    if isinstance(reference, bytes):
        return _decode_file(io.BytesIO(reference), f"image of {len(reference)} bytes")
    name = os.fspath(reference)
    if row := _ARRAY_ROW.fullmatch(name):
        return _decode_row(row["array"], int(row["row"]))
    if member := _ZIP_MEMBER.fullmatch(name):
        return _decode_file(io.BytesIO(_read_member(member["archive"], member["member"])), name)
    try:
        # A pipe or a device under an image's name would keep a reader waiting for ever.
        if not stat.S_ISREG(os.stat(name).st_mode):
            raise InputError(f"{name}: cannot be read (it is no regular file)")
        with open(name, "rb") as file:
            return _decode_file(file, name)
    except FileNotFoundError:
        raise InputError(f"{name}: no such file") from None
    except OSError as error:
        raise InputError(f"{name}: cannot be read ({error.strerror or error})") from error


def heif_missing() -> str | None:
    """Make Pillow open HEIC files; return what they need to be read, or None where it is there."""
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        return "HEIC is read through pillow-heif: pip install 'metrixkit[heif]', or convert it to JPEG"
    register_heif_opener()
    return None


def _heif_known() -> bool:
    return "HEIF" in Image.OPEN


def _brand(file: IO[bytes]) -> bytes:
    """Return the four letters by which HEIC, AVIF and their like name themselves, else b""."""
    file.seek(0)
    head = file.read(12)
    return head[8:] if head[4:8] == b"ftyp" else b""


def _why_unidentified(file: IO[bytes], brand: bytes) -> str:
    if file.seek(0, os.SEEK_END) == 0:
        return "the file is empty"
    if brand in _HEIF_BRANDS:
        return heif_missing() or "broken HEIC image"
    if brand in _AVIF_BRANDS and "AVIF" in Image.OPEN:
        return "broken AVIF image"
    if brand in _AVIF_BRANDS:
        return "AVIF is read by Pillow 11.3 and newer: pip install 'pillow>=11.3', or convert it to JPEG"
    file.seek(0)
    if file.read(len(_LFS)) == _LFS:
        return "a pointer of Git LFS, not the image; fetch it with git lfs pull"
    return "not an image of a format that Pillow reads; convert it to PNG or JPEG"


def container(reference: str) -> str:
    """Return the file on disk that holds `reference`: the archive, the array, or the reference itself."""
    if row := _ARRAY_ROW.fullmatch(reference):
        return row["array"]
    if member := _ZIP_MEMBER.fullmatch(reference):
        return member["archive"]
    return reference


def image_to_tensor(image: Image.Image) -> Tensor:
    """Return an open Pillow image as RGB; what :func:`decode` does once the file is open.

    Integers of 16 bits keep their upper eight, as Pillow does for 16-bit RGB, so grey and colour agree. Wider integers
    and floats have no range of their own; theirs is taken as the first of 0..1 (floats only), 0..255, 0..65535 that
    holds all values, else their minimum..maximum is stretched.

    Args:
        image: Any mode; its EXIF orientation is applied.

    Returns:
        (3, H, W) uint8, 0 to 255.

    Raises:
        InputError: Pixels that are NaN or infinite.
    """
    image.load()
    # After load(): a PNG may carry its EXIF block behind the pixels, and a TIFF has been turned by then.
    turn = _TURN.get(_orientation(image))
    if turn is not None:
        image = image.transpose(turn)
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        grey = _to_eight_bits(np.asarray(image))
        return torch.from_numpy(grey).expand(3, -1, -1).contiguous()
    if image.mode == "LAB":
        to_srgb = ImageCms.buildTransform(_LAB, _SRGB, "LAB", "RGB")
        image = ImageCms.applyTransform(image, to_srgb) or image
    elif image.has_transparency_data:
        ground = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(ground, image.convert("RGBA"))
    if image.mode != "RGB":
        image = image.convert("RGB")
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


def _decode_file(file: IO[bytes], name: str) -> Tensor:
    try:
        with Image.open(file) as image:
            width, height = image.size
            # Pillow warns at this size and refuses at twice of it; one limit is easier to live with.
            if Image.MAX_IMAGE_PIXELS is not None and width * height > Image.MAX_IMAGE_PIXELS:
                raise Image.DecompressionBombError
            if image.format == "EPS":  # its loader would start Ghostscript on a stranger's file
                raise InputError("EPS is a programme, not a picture; convert it to PNG")
            return image_to_tensor(image)
    except InputError as error:
        raise InputError(f"{name}: {error}") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        limit = (Image.MAX_IMAGE_PIXELS or 0) / 1e6
        raise InputError(
            f"{name}: more than {limit:.0f} million pixels, which a small hostile file can also claim; "
            "store a smaller version of the image"
        ) from None
    except UnidentifiedImageError:
        brand = _brand(file)
        if brand in _HEIF_BRANDS and not _heif_known() and heif_missing() is None:
            file.seek(0)
            return _decode_file(file, name)
        raise InputError(f"{name}: {_why_unidentified(file, brand)}") from None
    except Exception as error:  # what Pillow's many readers raise on broken files has no common base
        raise InputError(f"{name}: broken image ({str(error) or type(error).__name__})") from error


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:  # a damaged EXIF block is common and says nothing about the pixels
        return 1


def _to_eight_bits(values: np.ndarray) -> np.ndarray:
    if values.dtype.itemsize == 2:
        return (values >> 8).astype(np.uint8)
    if not np.isfinite(values).all():
        bad = int((~np.isfinite(values)).sum())
        raise InputError(f"{bad} of {values.size} pixels are NaN or infinite; replace them before storing the image")
    low, high = float(values.min()), float(values.max())
    real = np.issubdtype(values.dtype, np.floating)
    if low >= 0 and high <= 65535 and not (real and high <= 1):
        return (values if high <= 255 else values / 256).astype(np.uint8)
    if not (real and low >= 0 and high <= 1):
        values = (values.astype(np.float64) - low) / max(high - low, np.finfo(np.float64).tiny)
    return np.rint(values * 255).astype(np.uint8)


def _read_member(archive: str, member: str) -> bytes:
    try:
        status = os.stat(archive)
        # The process id is part of the key: a forked worker would share, and move, its parent's place in the file.
        opened = _open_archive(archive, status.st_mtime_ns, status.st_size, os.getpid())
        info = opened.getinfo(member)
        if info.file_size > _MAX_MEMBER_BYTES:
            raise InputError(f"{archive}!{member}: {info.file_size:,} bytes unpacked, more than an image should need")
        return opened.read(info)
    except FileNotFoundError:
        raise InputError(f"{archive}: no such file") from None
    except KeyError:
        raise InputError(f"{archive}: holds no member {member!r}") from None
    except InputError:
        raise
    except Exception as error:  # bad checksum, unknown compression, password, disk
        raise InputError(f"{archive}!{member}: cannot be read ({error})") from error


@lru_cache(maxsize=16)
def _open_archive(archive: str, mtime_ns: int, size: int, process: int) -> zipfile.ZipFile:
    return zipfile.ZipFile(archive)


def _decode_row(array: str, row: int) -> Tensor:
    try:
        status = os.stat(array)
        rows = _open_array(array, status.st_mtime_ns, status.st_size)
    except FileNotFoundError:
        raise InputError(f"{array}: no such file") from None
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{array}: cannot be read as a NumPy array ({error})") from error
    shaped = rows.ndim == 3 or (rows.ndim == 4 and rows.shape[3] == 3)
    if rows.dtype != np.uint8 or not shaped:
        raise InputError(
            f"{array}: expected uint8 of shape (N, H, W) or (N, H, W, 3), found {rows.dtype} of shape {rows.shape}"
        )
    if row >= len(rows):
        raise InputError(f"{array}: has {len(rows)} rows, row {row} was asked for (rows count from 0)")
    image = torch.from_numpy(np.array(rows[row]))
    return image.expand(3, -1, -1).contiguous() if image.ndim == 2 else image.permute(2, 0, 1).contiguous()


@lru_cache(maxsize=16)
def _open_array(array: str, mtime_ns: int, size: int) -> np.ndarray:
    return np.load(array, mmap_mode="r", allow_pickle=False)  # type: ignore[no-any-return]
