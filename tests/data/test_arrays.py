"""Embeddings and scores in the files that people keep them in."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from metrixkit.data.arrays import read_matrix
from metrixkit.errors import InputError

ROWS = np.arange(6, dtype=np.float32).reshape(3, 2)


def saved(folder: Path, name: str, arrays: dict[str, Any]) -> Path:
    path = folder / name
    first = next(iter(arrays.values()))
    if path.suffix == ".npy":
        np.save(path, first)
    elif path.suffix == ".npz":
        np.savez(path, **arrays)
    elif path.suffix == ".safetensors":
        save_file({key: torch.as_tensor(value) for key, value in arrays.items()}, path)
    else:
        torch.save(torch.as_tensor(first) if len(arrays) == 1 else arrays, path)
    return path


@pytest.mark.parametrize("name", ["E.npy", "E.npz", "E.pt", "E.pth", "E.safetensors"])
def test_one_array_is_read_from_any_form(tmp_path: Path, name: str) -> None:
    found = read_matrix(saved(tmp_path, name, {"e": ROWS}), "--embeddings")
    assert found.dtype == np.float32
    assert np.array_equal(found, ROWS)
    assert isinstance(found, np.memmap) == (name == "E.npy")


@pytest.mark.parametrize("name", ["E.npz", "E.pt", "E.safetensors"])
def test_of_several_arrays_one_is_named(tmp_path: Path, name: str) -> None:
    several = {"train": torch.ones(2, 2), "test": torch.from_numpy(ROWS)}
    path = saved(tmp_path, name, several)
    with pytest.raises(InputError, match=rf"--queries .*{name}: holds 2 arrays, .*; name one: --queries .*{name}#"):
        read_matrix(path, "--queries")
    assert np.array_equal(read_matrix(f"{path}#test", "--queries"), ROWS)
    with pytest.raises(InputError, match="no array is called 'tets'.* Did you mean 'test'"):
        read_matrix(f"{path}#tets", "--queries")


def test_other_types_of_tensors(tmp_path: Path) -> None:
    torch.save(torch.from_numpy(ROWS).bfloat16().requires_grad_(), tmp_path / "E.pt")
    assert np.array_equal(read_matrix(tmp_path / "E.pt", "--text"), ROWS)
    torch.save(torch.from_numpy(ROWS), tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert np.array_equal(read_matrix(tmp_path / "old.pt", "--text"), ROWS)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("absent.npy", None, r"absent\.npy: no such file \(looked at .*\); expected one of \.npy"),
        ("t.npy", np.ones(3), r"expected an array of two dimensions .*got float64 of shape \(3,\)"),
        ("t.npy", np.ones((2, 2), complex), "complex128"),
        ("t.npy", np.array([["a"]]), "<U1"),
        ("t.npy", np.array([[None]]), "not readable as an array"),
        ("t.npy", b"\x93NUMPY", "not readable as an array"),
        ("t.npy", b"\x93NUMPY\x01\x00v\x00{'descr': ( " + b" " * 107, "not readable as an array"),  # numpy: TokenError
        ("t.npz", b"PK\x03\x04", "not readable as an array"),
        ("t.pt", b"", "not readable as an array"),
        ("t.pt", pickle.dumps(ROWS), "not readable as an array"),
        ("t.pt", [1, 2], "got list"),
        ("t.pt", {"a": 1}, "holds no array"),
        ("t.safetensors", b"1234567890", "not readable as an array"),
        ("t.csv", b"1,2\n", "not readable as an array"),
    ],
)
def test_other_files_are_refused_by_the_option(tmp_path: Path, name: str, content: Any, message: str) -> None:
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif isinstance(content, np.ndarray):
        np.save(path, content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(InputError, match=f"^--text .*{message}"):
        read_matrix(path, "--text")
