"""Two folders of class folders, one to train on and one to test on, as ImageNet is kept everywhere."""

from __future__ import annotations

from pathlib import Path

from metrixkit.data.sets.torchvision_specs import FolderSpec
from metrixkit.errors import InputError

FolderRow = tuple[str, str, str, str]


def read_folders(
    name: str, spec: FolderSpec, root: Path, train_folder: str | None, test_folder: str | None
) -> tuple[list[FolderRow], list[str]]:
    """Return (id, path, label, split) of every image, and the classes; an id is the path below `root`.

    Args:
        name: The set, for messages.
        spec: The usual names of its folders.
        root: The folder that holds both.
        train_folder: The training folder's name, None for the usual ones.
        test_folder: The test folder's name, None for the usual ones.

    Raises:
        InputError: A folder is missing or holds no class folder with an image, or they have different classes.
    """
    from torchvision.datasets import ImageFolder

    rows: list[FolderRow] = []
    seen: dict[str, list[str]] = {}
    for split, given, usual in (("train", train_folder, spec.train), ("test", test_folder, spec.test)):
        names = (given,) if given is not None else usual
        here = [each for each in names if (root / each).is_dir()]
        if not here:
            raise InputError(
                f"{name}: no folder {' or '.join(map(repr, names))} in {root.absolute()}, for the split {split!r}. It "
                f"is {spec.title}, from {spec.origin}; other names are given by data.{split}_folder. A single folder "
                "of class folders is read by data=images."
            )
        folder = root / here[0]
        try:
            found = ImageFolder(str(folder))
        except (FileNotFoundError, OSError) as error:
            raise InputError(f"{name}: {folder} is no folder of class folders with images ({error}).") from error
        seen[split] = found.classes
        rows += [
            (Path(path).relative_to(root).as_posix(), path, found.classes[label], split)
            for path, label in found.samples
        ]
    apart = sorted(set(seen["train"]) ^ set(seen["test"]))
    if apart:
        side = "training" if apart[0] in seen["train"] else "test"
        raise InputError(
            f"{name}: {len(apart)} classes stand in one of the two folders only (first: {apart[0]!r}, in the {side} "
            f"folder). {root} is to hold the same classes twice; ImageNet's validation images must be sorted into "
            "class folders. Classes of their own for the test are read by data=images."
        )
    return rows, seen["train"]
