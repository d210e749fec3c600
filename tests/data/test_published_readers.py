"""Readers of published data sets on tiny trees of their layouts."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from PIL import Image

from metrixkit.data import CUB, SOP, Cars, InShop, Omniglot
from metrixkit.data.decode import decode
from metrixkit.data.sets.numbered import parse_classes
from metrixkit.errors import InputError


def picture(path: Path, value: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (6, 4), (value, 0, 0)).save(path)


# --- CUB ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def cub(tmp_path) -> Path:
    root = tmp_path / "data" / "first50" / "CUB_200_2011"
    rows = [(k, f"{c:03d}.Bird_{c}", f"Bird_{k}.jpg") for k, c in enumerate([1, 1, 2, 2, 3, 3, 4, 4, 5], start=1)]
    for _, folder, name in rows:
        picture(root / "images" / folder / name)
    (root / "images.txt").write_text("".join(f"{k} {folder}/{name}\n" for k, folder, name in rows))
    (root / "image_class_labels.txt").write_text("".join(f"{k} {int(folder[:3])}\n" for k, folder, _ in rows))
    (root / "train_test_split.txt").write_text("".join(f"{k} {k % 2}\n" for k, _, _ in rows))
    (root / "classes.txt").write_text("".join(f"{c} {c:03d}.Bird_{c}\n" for c in range(1, 6)))
    return root


def test_cub_subset_splits_its_own_list_in_halves(cub):
    found = CUB(str(cub), classes="1-4").read()
    assert found.split_name == "cub-first4-zero-shot"
    assert found.counts() == {"train": 4, "test": 4}
    assert found.part("train").classes() == ["001.Bird_1", "002.Bird_2"]
    assert found.ids[0] == "1"
    assert decode(found.paths[0]).shape == (3, 4, 6)
    assert found.expected == {}


def test_cub_classification_follows_the_published_list(cub):
    found = CUB(str(cub), split="classification", classes="2,4").read()
    assert found.split_name == "cub-classes-2+4-classification"
    assert found.part("train").ids == ["3", "7"]
    assert found.part("test").ids == ["4", "8"]


def test_cub_whole_set_must_have_the_published_counts(cub):
    with pytest.raises(InputError, match=r"published are \{'train': 5864, 'test': 5924\}"):
        CUB(str(cub)).read()


@pytest.mark.parametrize("place", ["itself", "parent", "deeper"])
def test_folder_is_found_itself_below_and_one_level_deeper(cub, place, monkeypatch, tmp_path):
    roots = {"itself": cub, "parent": cub.parent, "deeper": cub.parent.parent}
    assert CUB(str(roots[place]), classes="1-4").read().root == cub
    monkeypatch.setenv("METRIXKIT_DATA", os.pathsep.join([str(tmp_path / "nowhere"), str(roots[place])]))
    assert CUB(classes="1-4").read().root == cub


def test_absent_folder_says_what_where_and_whence(tmp_path, monkeypatch):
    monkeypatch.setenv("METRIXKIT_DATA", str(tmp_path))
    with pytest.raises(InputError) as caught:
        CUB().read()
    for part in ("CUB-200-2011", str(tmp_path), "CaltechDATA", "datasets/cub.md", "METRIXKIT_DATA"):
        assert part in str(caught.value)


def test_missing_files_are_one_error_or_dropped_and_counted(cub):
    (cub / "images" / "002.Bird_2" / "Bird_3.jpg").unlink()
    with pytest.raises(InputError, match=r"1 of 8 listed files .*Bird_3\.jpg: missing.*classes 1,3-4") as caught:
        CUB(str(cub), classes="1-4").read()
    assert "data.on_missing=drop" in str(caught.value)
    found = CUB(str(cub), classes="1-4", on_missing="drop").read()
    assert found.dropped == 1
    assert found.absent == (os.path.join("images", "002.Bird_2", "Bird_3.jpg") + ": missing",)
    assert found.counts() == {"train": 3, "test": 4}


def test_a_split_cannot_be_dropped_as_a_whole(cub):
    for c in (3, 4):
        for file in (cub / "images" / f"{c:03d}.Bird_{c}").iterdir():
            file.unlink()
    with pytest.raises(InputError, match="Nothing of the split 'test' is left"):
        CUB(str(cub), classes="1-4", on_missing="drop").read()


def test_broken_files_count_as_missing_when_verified(cub):
    broken = cub / "images" / "001.Bird_1" / "Bird_1.jpg"
    broken.write_bytes(broken.read_bytes()[:40])
    assert CUB(str(cub), classes="1-4").read().dropped == 0
    found = CUB(str(cub), classes="1-4", on_missing="drop", verify=True).read()
    assert found.dropped == 1
    assert "1" not in found.ids
    with pytest.raises(InputError, match="1 of 8 listed files are missing or broken"):
        CUB(str(cub), classes="1-4", verify=True).read()


@pytest.mark.parametrize("classes", ["1-9", "", "4-1", "a-b", "1"])
def test_cub_classes_that_make_no_sense(cub, classes):
    with pytest.raises(InputError, match="classes"):
        CUB(str(cub), classes=classes).read()


def test_cub_lists_that_disagree_or_are_cut(cub):
    labels = (cub / "image_class_labels.txt").read_text()
    (cub / "image_class_labels.txt").write_text(labels.replace("3 2\n", ""))
    with pytest.raises(InputError, match="image 3 of"):
        CUB(str(cub), classes="1-4").read()
    (cub / "image_class_labels.txt").write_text(labels.replace("3 2\n", "3\n"))
    with pytest.raises(InputError, match=r"image_class_labels\.txt, line 3"):
        CUB(str(cub), classes="1-4").read()
    (cub / "image_class_labels.txt").unlink()
    with pytest.raises(InputError, match=r"image_class_labels\.txt is missing"):
        CUB(str(cub), classes="1-4").read()


def test_parse_classes():
    assert parse_classes("1-3, 7,2") == [1, 2, 3, 7]


# --- Cars --------------------------------------------------------------------------------------------------------

NAMES = np.array(["Audi A", "BMW B", "Dodge C", "Ford D", "Geo E"], dtype=object)


def structs(*rows: dict) -> np.ndarray:
    table = np.zeros((1, len(rows)), dtype=[(name, object) for name in rows[0]])
    for k, row in enumerate(rows):
        for name, value in row.items():
            table[0, k][name] = value
    return table


def old_cars(root: Path) -> None:
    rows = []
    for k, c in enumerate([1, 1, 2, 2, 3, 3, 4, 4, 5], start=1):
        picture(root / "car_ims" / f"{k:06d}.jpg")
        rows.append({"relative_im_path": f"car_ims/{k:06d}.jpg", "class": c, "test": k % 2})
    scipy.io.savemat(root / "cars_annos.mat", {"annotations": structs(*rows), "class_names": NAMES})


def new_cars(root: Path, test_labels: str) -> None:
    (root / "devkit").mkdir(parents=True)
    train = [{"fname": f"{k:05d}.jpg", "class": c} for k, c in enumerate([1, 2, 3, 4], start=1)]
    test = [{"fname": f"{k:05d}.jpg", "class": c} for k, c in enumerate([4, 3, 2, 1], start=1)]
    for k in range(1, 5):
        picture(root / "cars_train" / f"{k:05d}.jpg")
        picture(root / "cars_test" / f"{k:05d}.jpg")
    scipy.io.savemat(root / "devkit" / "cars_train_annos.mat", {"annotations": structs(*train)})
    scipy.io.savemat(root / "devkit" / "cars_meta.mat", {"class_names": NAMES})
    boxes = [{"fname": row["fname"], "bbox_x1": 1} for row in test]
    scipy.io.savemat(root / "devkit" / "cars_test_annos.mat", {"annotations": structs(*boxes)})
    if test_labels == "mat":
        scipy.io.savemat(root / "cars_test_annos_withlabels.mat", {"annotations": structs(*test)})
    if test_labels == "csv":
        lines = [f"{row['fname']},{row['class']},0" for row in train]
        lines += [f"test_{row['fname']},{row['class']},1" for row in test]
        (root / "labels_df.csv").write_text("filename,class_id,is_test\n" + "\n".join(lines))


def test_cars_old_layout(tmp_path):
    old_cars(tmp_path / "cars196")
    found = Cars(str(tmp_path), classes="1-4").read()
    assert found.counts() == {"train": 4, "test": 4}
    assert found.part("train").classes() == ["001.Audi A", "002.BMW B"]
    assert found.split_name == "cars-first4-zero-shot"
    by_list = Cars(str(tmp_path), classes="1-3", split="classification").read()
    assert by_list.part("test").ids == [f"car_ims/{k:06d}.jpg" for k in (1, 3, 5)]
    with pytest.raises(InputError, match="8054"):
        Cars(str(tmp_path)).read()


@pytest.mark.parametrize("test_labels", ["mat", "csv"])
def test_cars_new_layout(tmp_path, test_labels):
    new_cars(tmp_path / "stanford_cars", test_labels)
    found = Cars(str(tmp_path), classes="1-3").read()
    assert dict(zip(found.ids, found.labels, strict=True)) == {
        "cars_train/00001.jpg": "001.Audi A",
        "cars_train/00002.jpg": "002.BMW B",
        "cars_train/00003.jpg": "003.Dodge C",
        "cars_test/00002.jpg": "003.Dodge C",
        "cars_test/00003.jpg": "002.BMW B",
        "cars_test/00004.jpg": "001.Audi A",
    }
    assert found.part("train").classes() == ["001.Audi A"], "the first half of three classes is one"


def test_cars_without_labels_of_the_test_images(tmp_path):
    new_cars(tmp_path / "stanford_cars", "none")
    with pytest.raises(InputError, match="cars_test_annos_withlabels.mat"):
        Cars(str(tmp_path)).read()


def test_cars_broken_annotations(tmp_path):
    (tmp_path / "cars_annos.mat").write_bytes(b"not matlab")
    with pytest.raises(InputError, match="cannot be read as a MATLAB file"):
        Cars(str(tmp_path)).read()


# --- SOP ---------------------------------------------------------------------------------------------------------


def sop_lists(root: Path, test_class: int = 2) -> None:
    for split, number, name in (("train", 1, "a_final/1 x.JPG"), ("test", test_class, "b_final/2.JPG")):
        (root / f"Ebay_{split}.txt").parent.mkdir(exist_ok=True)
        (root / f"Ebay_{split}.txt").write_text(
            f"image_id class_id super_class_id path\n{number + 10} {number} 7 {name}\n"
        )
        picture(root / name)


def test_sop_own_lists_and_published_counts(tmp_path):
    sop_lists(tmp_path / "shoes")
    found = SOP(str(tmp_path / "shoes"), own_lists=True).read()
    assert found.items[["id", "label", "split", "super_class"]].to_numpy().tolist() == [
        ["11", "1", "train", "7"],
        ["12", "2", "test", "7"],
    ]
    assert decode(found.paths[0]).shape == (3, 4, 6), "a blank in a file name"
    assert found.split_name == "shoes-zero-shot"
    with pytest.raises(InputError, match=r"59551.*data\.own_lists=true"):
        SOP(str(tmp_path / "shoes")).read()


def test_sop_refuses_a_class_in_both_lists(tmp_path):
    (tmp_path / "x").mkdir()
    sop_lists(tmp_path / "x")
    (tmp_path / "x" / "Ebay_test.txt").write_text("image_id class_id super_class_id path\n12 1 7 b_final/2.JPG\n")
    with pytest.raises(InputError, match="class 1 stands in both lists"):
        SOP(str(tmp_path / "x"), own_lists=True).read()


# --- In-Shop -----------------------------------------------------------------------------------------------------

PADDED = """{count}
image_name item_id evaluation_status
img/WOMEN/Dresses/id_00000002/02_1_front.jpg                                id_00000002 train
img/WOMEN/Dresses/id_00000007/02_1_front.jpg                                id_00000007 query
img/MEN/Denim Jackets/id_00000007/02_2_side.jpg                             id_00000007 gallery
"""


def inshop(root: Path, images: str, listed: str, count: int = 3) -> None:
    (root / listed).mkdir(parents=True, exist_ok=True)
    text = PADDED.format(count=count).replace(" train\n", " train    \n")
    (root / listed / "list_eval_partition.txt").write_text(text)
    for line in text.splitlines()[2:]:
        picture(root / images / line.rsplit(None, 2)[0])


@pytest.mark.parametrize(("images", "listed"), [(".", "."), ("Img", "Eval")])
def test_inshop_padding_and_both_places_of_the_images(tmp_path, images, listed):
    inshop(tmp_path / "In-shop", images, listed)
    found = InShop(str(tmp_path), own_lists=True).read()
    assert found.splits == ["train", "query", "gallery"]
    assert found.labels == ["id_00000002", "id_00000007", "id_00000007"]
    assert found.ids[2] == "img/MEN/Denim Jackets/id_00000007/02_2_side.jpg"
    assert found.split_name == "In-shop-query-gallery"
    with pytest.raises(InputError, match="25882"):
        InShop(str(tmp_path)).read()


def test_inshop_list_that_is_cut_short(tmp_path):
    inshop(tmp_path / "inshop", ".", ".", count=4)
    with pytest.raises(InputError, match="promises 4 rows, it has 3"):
        InShop(str(tmp_path), own_lists=True).read()


# --- Omniglot ----------------------------------------------------------------------------------------------------


def omniglot(root: Path, name: str, alphabets: str, value: int = 0, kind: str = "images") -> None:
    root.mkdir(exist_ok=True)
    picture(root / "one.png", value)
    suffix = "png" if kind == "images" else "txt"
    with zipfile.ZipFile(root / f"{kind}_background_{name}.zip", "w") as archive:
        archive.writestr(f"__MACOSX/{name}/A/character01/._0001_01.{suffix}", b"shadow")
        archive.writestr(f"{kind}_background_{name}/A/character01/._0001_01.{suffix}", b"shadow")
        for alphabet in alphabets:
            for drawer in ("01", "02"):
                member = f"{kind}_background_{name}/{alphabet}/character01/0001_{drawer}.{suffix}"
                archive.writestr(member, (root / "one.png").read_bytes())


def test_omniglot_reads_zips_in_place_and_takes_shared_drawings_once(tmp_path):
    omniglot(tmp_path, "small1", "ABC")
    omniglot(tmp_path, "small2", "CD")
    omniglot(tmp_path, "small1", "ABC", kind="strokes")
    found = Omniglot(str(tmp_path), archives=["small1", "small2"], seed=1).read()
    assert len(found) == 8
    assert found.classes() == [f"{a}/character01" for a in "ABCD"]
    assert len(set(found.part("test").items["alphabet"])) == 2
    assert found.items["drawer"].tolist() == ["01", "02"] * 4
    assert decode(found.paths[-1]).shape == (3, 4, 6)
    assert found.split_name == "omniglot-small1-small2-share0.5-seed1-zero-shot"
    assert found.relations["strokes"]["id"].tolist() == [
        f"{a}/character01/0001_0{d}.png" for a in "ABC" for d in (1, 2)
    ]
    other = [Omniglot(str(tmp_path), archives=["small1", "small2"], seed=s).read() for s in range(8)]
    assert len({tuple(m.part("test").classes()) for m in other}) > 1


def test_omniglot_refuses_two_drawings_under_one_name(tmp_path):
    omniglot(tmp_path, "small1", "AB")
    omniglot(tmp_path, "small2", "B", value=9)
    with pytest.raises(InputError, match="bear one name and differ"):
        Omniglot(str(tmp_path), archives=["small1", "small2"]).read()


def test_omniglot_with_other_archives_says_how_to_ask_for_them(tmp_path):
    omniglot(tmp_path, "small1", "AB")
    with pytest.raises(InputError, match=r"data\.archives=\[small1\]"):
        Omniglot(str(tmp_path)).read()


def test_omniglot_bad_settings_and_zips(tmp_path):
    with pytest.raises(InputError, match="Did you mean 'small1'"):
        Omniglot(archives=["smal1"])
    with pytest.raises(InputError, match="test_share"):
        Omniglot(test_share=0.3)
    omniglot(tmp_path, "small1", "A")
    with pytest.raises(InputError, match="hold 1"):
        Omniglot(str(tmp_path), archives=["small1"]).read()
    (tmp_path / "images_background_small1.zip").write_bytes(b"no zip")
    with pytest.raises(InputError, match="cannot be opened as a zip"):
        Omniglot(str(tmp_path), archives=["small1"]).read()
