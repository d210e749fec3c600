"""Files of others, read as plain data within limits: YAML, JSON, pickles, settings of models."""

from __future__ import annotations

import copy
import json
import os
import pickle
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from foreign import change_json, run_folder

from metrixkit import load_model
from metrixkit.data import load_pickle
from metrixkit.embedding.pairs import PairEmbeddingModel
from metrixkit.errors import InputError
from metrixkit.foreign import MOST_YAML_BYTES, read_json, read_yaml
from metrixkit.mixing import Mixer
from metrixkit.mixing.mixer import load_mixer, save_mixer
from metrixkit.models import Multimodal, VideoText, load_multimodal, save_pair_model
from metrixkit.models.multimodal import ModalityInput, MultimodalInputs
from metrixkit.models.text import train_vocabulary
from metrixkit.models.video_text import PairInputs
from metrixkit.rebuilding import Budget

ALIASES = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 30))


@pytest.mark.parametrize(
    ("text", "word"),
    [
        (ALIASES, "unfolds into more than"),
        ("a: &a [*a]\n", "holds itself"),
        ("a: " + "[" * 5_000, "nested too deeply"),
        ("a: " + "x" * MOST_YAML_BYTES, "larger than"),
        ("a: !!python/object/apply:os.system [id]\n", "could not determine a constructor"),
        ("a: !!float ''\n", "not readable"),
        ("a: !!timestamp x\n", "not readable"),
        ("a: 2001-99-99\n", "not readable"),
        ("a: 2001-09-09\n", "is a date"),
        ("a: !!set {1, 2}\n", "is a set"),
        ("a: !!binary aGk=\n", "is a bytes"),
        (f"a: {'9' * 5000}\n", "not readable"),
        ("? [a]\n: 1\n", "not readable"),
        ("1: 2\n", "1 is no name"),
        ("a: {b: {2: 3}}\n", "2 is no name"),
        ("a: \0\n", "not readable"),
        ("- a\n", "got a list"),
        ("# nothing\n", "got nothing"),
    ],
    ids=lambda value: str(value)[:24],
)
def test_yaml_that_is_refused(tmp_path: Path, text: str, word: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=word) as caught:
        read_yaml(path)
    assert str(caught.value).startswith(str(path))


def test_yaml_that_is_read(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("\ufeffa: &x {b: [1, 2.5, null, true]}\nc: *x\nd: ${oc.env:HOME}\n")
    assert read_yaml(path) == {
        "a": {"b": [1, 2.5, None, True]},
        "c": {"b": [1, 2.5, None, True]},
        "d": "${oc.env:HOME}",
    }


def test_a_file_that_never_ends_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("/dev/zero")
    for name in ("pipe", "link"):
        with pytest.raises(InputError, match="no regular file"):
            read_json(tmp_path / name)
    with pytest.raises(InputError, match="is missing"):
        read_json(tmp_path / "absent")


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("[" * 100_000, "nested too deeply"),
        ("{", "no JSON"),
        ("[]", "got a list"),
        (f'{{"a": {"9" * 5000}}}', "no JSON"),
    ],
    ids=["deep", "cut", "list", "digits"],
)
def test_json_that_is_refused(tmp_path: Path, text: str, word: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(InputError, match=word):
        read_json(path)


# --- pickles -----------------------------------------------------------------------------------------------------

RECONSTRUCT = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntVb\ntR"


@pytest.mark.parametrize(
    "content",
    [
        RECONSTRUCT + b"(I1\n(I4\ntcnumpy\ndtype\n(VO8\ntRI00\n]tb.",  # objects: their addresses would be invented
        RECONSTRUCT + b"(I1\n(I-4\ntcnumpy\ndtype\n(Vf4\ntRI00\nVaaaa\ntb.",
        RECONSTRUCT + b"(I1\n(I100000\ntcnumpy\ndtype\n(Vf4\ntRI00\nVaaaa\ntb.",  # longer than it is
        RECONSTRUCT + b"(I1\n(I4\ntVf4\nI00\nVaaaa\ntb.",
        RECONSTRUCT + b"I5\nb.",
        b"cnumpy\ndtype\n(VO8\ntR.",
        b"cnumpy\ndtype\n(Vf4,f4\ntR.",
        b"cnumpy\ndtype\n(Vf4\ntR(I3\nV<\nN(Va\ntNI-1\nI-1\nI0\ntb.",  # fields
        b"cnumpy\nndarray\n(I1000000000000\ntR.",
        b"cnumpy\nndarray\n)\x81.",
        b"cnumpy.core.multiarray\nscalar\n(cnumpy\ndtype\n(VS999999999\ntRVa\ntR.",
        b"cnumpy._core.numeric\n_frombuffer\n(Vabcd\ncnumpy\ndtype\n(Vf4\ntR(I9\ntVC\ntR.",
        b"cbuiltins\nbytearray\n(I1000000000000\ntR.",
        b"N0Np2147483647\n.",  # room for two thousand million parts
        b"\x80\x02Nr\xff\xff\xff\x7f.",
        b"c_codecs\nencode\n(Vx\nVzlib\ntR.",
        b"cos\nsystem\n(Vid\ntR.",
        b"cbuiltins\neval\n(V1\ntR.",
        b"\x80\x04\x8c\x05numpy\x8c\x0cndarray.view\x93.",
        b"]" * 100_000 + b"a" * 99_999 + b".",
        b"",
    ],
)
def test_pickles_that_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "p.pkl"
    path.write_bytes(content)
    with pytest.raises(InputError, match="not a pickle of plain data"):
        load_pickle(path, arrays=True)


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_come_back_as_numpy_reads_them(tmp_path: Path, protocol: int) -> None:
    held = {
        "big": np.arange(6.0).astype(">f4").reshape(2, 3),
        "inner": [np.float64(3.5), np.array(["x", "yy"]), np.asfortranarray(np.arange(6).reshape(2, 3))],
        "more": (np.array([True, False]), np.zeros((0, 3)), np.array(5), np.array([b"ab"]), np.array([1 + 2j])),
        "plain": (1, {2}, OrderedDict(a=1), bytearray(b"12"), 1j, None),
    }
    path = tmp_path / "p.pkl"
    path.write_bytes(pickle.dumps(held, protocol))
    found, wanted = load_pickle(path, arrays=True, encoding="latin1"), pickle.loads(path.read_bytes())
    for name in ("inner", "more"):
        for one, other in zip(found[name], wanted[name], strict=True):
            assert type(one) is type(other)
            assert one.dtype == other.dtype
            assert np.array_equal(one, other)
    assert found["plain"] == wanted["plain"]
    assert np.array_equal(found["big"], wanted["big"])
    assert found["big"].dtype == wanted["big"].dtype
    assert found["inner"][2].flags.f_contiguous


# --- settings of models ------------------------------------------------------------------------------------------

ODD: list[Any] = [None, -1, 0, 10**12, 1.5, float("nan"), "", "os:system", [], [10**12] * 3, {}, {"a": 1}, "1" * 5000]


def odd_settings(path: Path, load: Callable[[], Any], most: int = 10**9) -> tuple[int, list[str]]:
    """Put each odd value at each place of a JSON file; return how many were tried, and what was not answered well."""
    base = json.loads(path.read_text())
    bad, tried = [], 0
    for keys in list(_places(base)):
        for value in ODD:
            content = copy.deepcopy(base)
            node = content
            for key in keys[:-1]:
                node = node[key]
            node[keys[-1]] = value
            path.write_text(json.dumps(content))
            tried += 1
            try:
                load()
            except InputError:
                pass
            except Exception as error:
                bad.append(f"{'.'.join(keys)}={str(value)[:20]}: {type(error).__name__} {error}"[:200])
            if tried == most:
                return tried, bad
    return tried, bad


def _places(node: dict[str, Any], above: tuple[str, ...] = ()) -> Any:
    for key, value in node.items():
        yield (*above, key)
        if isinstance(value, dict):
            yield from _places(value, (*above, key))


@pytest.mark.slow
def test_no_setting_of_a_saved_model_leads_to_a_traceback(tmp_path: Path) -> None:
    run = run_folder(tmp_path)
    black = np.zeros((1, 3, 20, 20), dtype=np.uint8)
    import torch

    tried = 0
    text = PairInputs(vocabulary=train_vocabulary(["a b c", "d e f"], 50))
    save_pair_model(
        VideoText(text, dim=16), tmp_path / "pair", {"fps": 1.0, "max_frames": 4, "sampling": "uniform", "size": 32}
    )
    forms = {"t": ModalityInput("text", 0), "f": ModalityInput("features", 5)}
    Multimodal(MultimodalInputs(forms), dim=8, width=8).save(tmp_path / "several")
    save_mixer(Mixer(16), tmp_path / "mixer", 1)
    for path, load in [
        (run / "model/config.json", lambda: load_model(run).embed(torch.from_numpy(black))),  # type: ignore[union-attr]
        (tmp_path / "pair/config.json", lambda: load_model(tmp_path / "pair")),
        (tmp_path / "several/modalities.json", lambda: load_multimodal(tmp_path / "several")),
        (tmp_path / "mixer/mixer.json", lambda: load_mixer(tmp_path / "mixer")),
    ]:
        load()
        found, bad = odd_settings(path, load)
        tried += found
        assert not bad, bad
    assert tried > 1000


@pytest.mark.parametrize(
    ("section", "values", "word"),
    [
        ("encoder", {"dim": 10**12}, "far larger model than its weights"),
        ("encoder", {"dim": 10**8}, "far larger model than its weights"),
        ("encoder", {"dim": 4}, "cannot be built again"),
        ("encoder", {"image_size": "x"}, "cannot be built again"),
        ("encoder", {"theirs": 1}, "cannot be built again"),
        ("transform", {"resize": 10**12}, "resize is 1000000000000; expected a side"),
        ("transform", {"image_size": "16"}, "image_size is '16'; expected a side"),
        (None, {"encoder": [1]}, r"encoder is \[1\]; expected its settings"),
        (None, {"kind": ["image"]}, "kind"),
    ],
)
def test_sizes_that_cannot_be_right(tmp_path: Path, section: str | None, values: dict[str, Any], word: str) -> None:
    run = run_folder(tmp_path)
    change_json(run / "model/config.json", section, **values)
    with pytest.raises(InputError, match=word):
        load_model(run)


@pytest.mark.parametrize(
    "changes",
    [{"size": 10**12}, {"max_frames": -1}, {"fps": "1"}, {"fps": float("nan")}, {"sampling": []}, {"cache": "theirs"}],
)
def test_frames_that_cannot_be_right(tmp_path: Path, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = VideoText(PairInputs(vocabulary=train_vocabulary(["a b"], 50)), dim=16)
    frames = {"fps": 1.0, "max_frames": 4, "sampling": "uniform", "size": 32}
    assert PairEmbeddingModel(model, frames).embedding_dim == 16
    with pytest.raises(InputError, match="frames: "):
        PairEmbeddingModel(model, {**frames, **changes})
    assert not Path("theirs").exists()  # no folder is made where a saved model says so


@pytest.mark.slow
def test_the_budget_looks_before_memory_is_taken() -> None:
    import torch

    for ask in (
        lambda: torch.empty(10**12),
        lambda: torch.ones((10**6, 10**6)),
        lambda: torch.randn(10**10),
        lambda: torch.arange(10**12),
        lambda: torch.linspace(0, 1, 10**10),
        lambda: torch.eye(10**7),
        lambda: [torch.nn.Linear(1, 1) for _ in range(10**9)],
    ):
        with pytest.raises(InputError, match="far larger model"), Budget(0):
            ask()
    with Budget(4):
        torch.nn.Linear(64, 64)(torch.ones(2, 64)).sum().backward()
        torch.empty(10**6, 10**6, device="meta")
