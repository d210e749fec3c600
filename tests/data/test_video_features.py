"""Features on disk, and pickles."""

from __future__ import annotations

import builtins
import pickle
import sys
from collections import OrderedDict
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from metrixkit.data.features import Features, pad_features, read_features
from metrixkit.data.sets.pickles import load_pickle
from metrixkit.errors import InputError

ARRAYS = {
    "a": np.arange(6, dtype=np.float64).reshape(2, 3),
    "b": np.arange(3, dtype=np.int16),
    "c/d": np.ones((5, 3), dtype=np.float32),
}


@pytest.fixture(params=["folder", "npz", "rows", "single"])
def stored(request, tmp_path):
    """The same features in every form (rows: all of length two)."""
    if request.param == "folder":
        for key, array in ARRAYS.items():
            (tmp_path / "f" / key).parent.mkdir(parents=True, exist_ok=True)
            np.save(tmp_path / "f" / f"{key}.npy", array)
        return tmp_path / "f", ARRAYS
    if request.param == "single":
        for key, array in ARRAYS.items():
            (tmp_path / "f" / key).parent.mkdir(parents=True, exist_ok=True)
            np.savez(tmp_path / "f" / f"{key}.npz", features=array)
        return tmp_path / "f", ARRAYS
    if request.param == "npz":
        np.savez_compressed(tmp_path / "f.npz", **ARRAYS)
        return tmp_path / "f.npz", ARRAYS
    rows = {key: np.random.default_rng(i).normal(size=(2, 3)).astype(np.float32) for i, key in enumerate(ARRAYS)}
    np.save(tmp_path / "E.npy", np.stack(list(rows.values())))
    (tmp_path / "ids.txt").write_text("\n".join(rows) + "\n")
    return tmp_path / "E.npy", rows


def test_every_form_gives_the_same(stored):
    path, arrays = stored
    features = Features.open(path)
    assert set(features) == set(arrays)
    assert len(features) == 3
    assert features.dim == 3
    for key, array in arrays.items():
        expected = np.atleast_2d(array).astype(np.float32)
        assert features[key].dtype == np.float32
        assert np.array_equal(features[key], expected)
        assert np.array_equal(read_features(features.references[key]), expected)
        assert features.lengths()[key] == len(expected)
    assert features.missing(["a", "x", "c/d", "y"]) == ["x", "y"]
    assert features.problems() == []
    with pytest.raises(InputError, match=r"none of id 'c/e'\. Did you mean 'c/d'"):
        _ = features["c/e"]
    features["a"][:] = 0  # the caller's own
    assert np.array_equal(features["a"], np.atleast_2d(arrays["a"]).astype(np.float32))


def test_ids_beside_rows(tmp_path):
    np.save(tmp_path / "embeddings.npy", np.eye(2, 3))
    with pytest.raises(InputError, match=r"ids of its rows are missing; expected one of embeddings\.txt"):
        Features.open(tmp_path / "embeddings.npy")
    (tmp_path / "table.csv").write_text("label,id\nx,007\ny,8\n")
    assert list(Features.open(tmp_path / "embeddings.npy")) == ["007", "8"]
    (tmp_path / "own.csv").write_text("name\na\nb\nc\n")
    with pytest.raises(InputError, match=r"shape \(2, 3\), but .*own\.csv has 3 ids"):
        Features.open(tmp_path / "embeddings.npy", ids=tmp_path / "own.csv")
    (tmp_path / "embeddings.txt").write_text("a\na\n")
    with pytest.raises(InputError, match="id 'a' is there twice"):
        Features.open(tmp_path / "embeddings.npy")


def test_what_cannot_be_used_is_named(tmp_path):
    for key, array in {
        "nan": np.array([[0.0, 1], [np.nan, 0]]),
        "inf": np.array([np.inf, 0]),
        "deep": np.zeros((2, 2, 2)),
        "none": np.zeros((0, 2)),
        "text": np.array(["a", "b"]),
        "wide": np.zeros((2, 3)),
        "good": np.zeros((1, 2)),
    }.items():
        np.save(tmp_path / f"{key}.npy", array)
    np.save(tmp_path / "object.npy", np.array([{}, {}]), allow_pickle=True)
    (tmp_path / "cut.npy").write_bytes((tmp_path / "good.npy").read_bytes()[:100])
    features = Features.open(tmp_path)
    assert features["good"].shape == (1, 2)
    reasons = dict(
        zip(("cut", "deep", "inf", "nan", "none", "object", "text", "wide"), features.problems(), strict=True)
    )
    assert "row 1 of 2 holds NaN" in reasons["nan"]
    assert "row 0 of 1 holds NaN or infinite" in reasons["inf"]
    assert "got (2, 2, 2)" in reasons["deep"]
    assert "none of them 0" in reasons["none"]
    assert "id 'wide' has dimension 3, others 2" in reasons["wide"]
    for key in ("cut", "text", "object"):
        assert f"{key}.npy: cannot be read as numbers" in reasons[key]


def test_bad_places(tmp_path):
    (tmp_path / "bad.npz").write_bytes(b"PK no zip")
    (tmp_path / "x.csv").touch()
    (tmp_path / "empty").mkdir()
    for place, reason in (
        ("nope", "no such file"),
        ("bad.npz", "not an .npz"),
        ("x.csv", "expected a folder"),
        ("empty", "there are none"),
    ):
        with pytest.raises(InputError, match=reason):
            Features.open(tmp_path / place)


def test_hdf5_needs_h5py(tmp_path, monkeypatch):
    (tmp_path / "f.h5").touch()
    real = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name == "h5py":
            raise ImportError
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(InputError, match="pip install h5py"):
        Features.open(tmp_path / "f.h5")


def test_hdf5_through_its_interface(tmp_path, monkeypatch):
    """A stand-in with the three calls that are used; the real one is tested where it is installed."""

    class File:
        def __init__(self, path, mode):
            assert mode == "r"

        def visititems(self, see):
            see("group", SimpleNamespace())
            see("group/a", ARRAYS["a"])

        def __getitem__(self, key):
            assert key == "group/a"
            return ARRAYS["a"]

    monkeypatch.setitem(sys.modules, "h5py", SimpleNamespace(File=File))
    (tmp_path / "f.h5").touch()
    features = Features.open(tmp_path / "f.h5")
    assert list(features) == ["group/a"]
    assert np.array_equal(features["group/a"], ARRAYS["a"])


def test_real_hdf5(tmp_path):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "f.h5", "w") as file:
        for key, array in ARRAYS.items():
            file[key] = array
    features = Features.open(tmp_path / "f.h5")
    assert set(features) == set(ARRAYS)
    assert np.array_equal(features["c/d"], ARRAYS["c/d"])


def test_padding():
    first, second = torch.arange(6.0).reshape(3, 2), torch.ones(1, 2)
    batch, mask = pad_features([first, second])
    assert batch.shape == (2, 3, 2)
    assert mask.tolist() == [[True, True, True], [True, False, False]]
    assert torch.equal(batch[0], first)
    assert batch[1, 1:].eq(0).all()
    batch, mask = pad_features([np.arange(10, dtype=np.uint8)[:, None], np.zeros((2, 1), np.uint8)], max_length=4)
    assert batch[0, :, 0].tolist() == [0, 3, 6, 9]
    assert batch.dtype == torch.uint8
    assert mask.sum(dim=1).tolist() == [4, 2]
    for bad in ([], [first, torch.ones(2, 3)], [first, torch.ones(0, 2)]):
        with pytest.raises(InputError, match="sequence"):
            pad_features(bad)


class Hostile:
    def __reduce__(self):
        return (eval, ("print('run')",))


def test_pickles_of_plain_data_only(tmp_path, capsys):
    plain = {"a": [["x", "y"], ("z",), b"b", 1.5, None, {1, 2}], "o": OrderedDict(k=1)}
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        (tmp_path / "p.pkl").write_bytes(pickle.dumps(plain, protocol))
        assert load_pickle(tmp_path / "p.pkl") == plain
    array = np.arange(4.0).reshape(2, 2)
    (tmp_path / "n.pkl").write_bytes(pickle.dumps({"a": array, "s": np.float32(2)}))
    assert np.array_equal(load_pickle(tmp_path / "n.pkl", arrays=True)["a"], array)
    with pytest.raises(InputError, match="Pickles can run code"):
        load_pickle(tmp_path / "n.pkl")
    (tmp_path / "h.pkl").write_bytes(pickle.dumps([Hostile()]))
    for arrays in (False, True):
        with pytest.raises(InputError, match=r"asks for builtins\.eval"):
            load_pickle(tmp_path / "h.pkl", arrays=arrays)
    assert capsys.readouterr().out == ""
    (tmp_path / "b.pkl").write_bytes(b"\x80\x04garbage")
    with pytest.raises(InputError, match="not a pickle"):
        load_pickle(tmp_path / "b.pkl")
    with pytest.raises(InputError, match="missing"):
        load_pickle(tmp_path / "absent.pkl")
    # Texts of Python 2 (protocol 2, SHORT_BINSTRING) do not tell their encoding.
    (tmp_path / "two.pkl").write_bytes(b"\x80\x02U\x02\xc3\xa9.")
    assert load_pickle(tmp_path / "two.pkl") == "é".encode()
    assert load_pickle(tmp_path / "two.pkl", encoding="latin1") == "Ã©"
