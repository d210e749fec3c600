"""The bound of the low-precision screen, held against what low precision can do at its worst."""

import numpy as np
import pytest
import torch

from metrixkit.errors import InputError
from metrixkit.retrieval.exact import screen
from metrixkit.retrieval.exact.rows import Rows
from metrixkit.retrieval.exact.screen import ScreenRows, products, screen_levels

CPU = torch.device("cpu")
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


def spiteful(kind, n, d, rng):
    if kind == "half steps":  # every number as far from bfloat16 as it can be, all to the same side
        return 1.0 + 2.0**-8 * (1 - 1e-3 * rng.random((n, d)))
    if kind == "mixed sizes":
        return rng.normal(size=(n, d)) * 10.0 ** rng.integers(-6, 1, size=(n, d))
    if kind == "one large":
        rows = 1e-3 * rng.normal(size=(n, d))
        rows[:, 0] = 1
        return rows
    if kind == "tiny numbers":  # below what bfloat16 and float32 can hold, beside one that they can
        rows = 1e-42 * rng.normal(size=(n, d))
        rows[:, -1] = 1
        return rows
    return rng.normal(size=(n, d)).astype(np.float32)


KINDS = ["half steps", "mixed sizes", "one large", "tiny numbers", "normal"]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dim", [1, 3, 512, 4096])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("precision", ["bfloat16", "float32"])
def test_no_product_is_farther_off_than_the_bound(precision, kind, dim, device):
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    rng = np.random.default_rng(dim)
    one, other = (Rows(torch.from_numpy(spiteful(kind, n, dim, rng)).to(device), "rows") for n in (23, 40))
    low_one, low_other = ScreenRows(one, precision), ScreenRows(other, precision)
    found = products(low_one.block(0, 23), low_other.block(0, 40))
    assert found.dtype == low_one.product_dtype
    true = one.take(slice(0, 23)) @ other.take(slice(0, 40)).T
    off = (found.double() - true).abs().cpu()
    assert (off <= low_one.total_error(low_other)[:, None]).all()
    # A pair is never below the floor of a score it reaches, nor above the ceiling of one that it does not.
    error = low_one.error(low_other).to(device)[:, None]
    assert (found >= low_one.floor(true, error)).all()
    assert (found <= low_one.ceiling(true, error)).all()


def test_the_bound_is_not_idle():
    # Rounding alone takes half of it, so that a slip of a factor two would be seen.
    rng = np.random.default_rng(0)
    rows = Rows(spiteful("half steps", 30, 512, rng), "rows")
    low = ScreenRows(rows, "bfloat16")
    off = products(low.block(0, 30), low.block(0, 30)).double() - rows.take(slice(0, 30)) @ rows.take(slice(0, 30)).T
    normal = ScreenRows(Rows(spiteful("normal", 30, 512, rng), "rows"), "bfloat16")
    assert off.abs().max() < low.total_error(low).max() < 0.02
    assert 1e-3 < float(normal.residuals.mean()) < 2.0**-8
    assert normal.total_error(normal).max() < 0.0085


@pytest.mark.parametrize("precision", ["bfloat16", "float32"])
def test_residuals_are_those_of_the_rows(precision):
    rng = np.random.default_rng(1)
    rows = Rows(spiteful("mixed sizes", 50, 64, rng), "rows")
    low = ScreenRows(rows, precision)
    real = (rows.take(slice(0, 50)) - low.block(0, 50).double()).norm(dim=1)
    assert (real <= low.residuals).all()
    assert (low.residuals <= 1.01 * real + 2.0**-21).all()


def test_bfloat16_products_are_float32_sums_rounded_to_nearest():
    # Sums of ones stick at 256 when they are kept in bfloat16; 257 and 259 are ties between its numbers.
    for width in (1, 64, 512, 700):
        ones = torch.ones(40, width, dtype=torch.bfloat16)
        assert (products(ones, ones) == torch.tensor(float(width)).bfloat16()).all()
    rng = np.random.default_rng(2)
    a, b = (torch.from_numpy(rng.normal(size=(64, 512))).bfloat16() for _ in range(2))
    exact = a.double() @ b.double().T
    slack = 512 * 2.0**-23 * (a.double().abs() @ b.double().abs().T)
    low, high = (exact - slack).bfloat16(), (exact + slack).bfloat16()
    assert ((products(a, b) >= low) & (products(a, b) <= high)).all()


def test_switches_of_torch_do_not_reach_float32_products():
    rng = np.random.default_rng(3)
    low = ScreenRows(Rows(spiteful("normal", 40, 512, rng), "rows"), "float32")
    before, expected = torch.get_float32_matmul_precision(), products(low.block(0, 40), low.block(0, 40))
    try:
        torch.set_float32_matmul_precision("medium")
        assert torch.equal(products(low.block(0, 40), low.block(0, 40)), expected)
    finally:
        torch.set_float32_matmul_precision(before)


def test_order_scale_and_streaming_give_the_same_rows(tmp_path, monkeypatch):
    rng = np.random.default_rng(4)
    data = np.lib.format.open_memmap(tmp_path / "e.npy", mode="w+", dtype=np.float32, shape=(100, 8))
    data[:] = rng.normal(size=(100, 8))
    rows = Rows(data, "rows")
    order = rng.permutation(100)[:70]
    kept = ScreenRows(rows, "bfloat16", order=order)
    monkeypatch.setattr(screen, "KEPT", 0)
    streamed = ScreenRows(rows, "bfloat16", order=order)
    assert kept.kept
    assert not streamed.kept
    assert kept.count == streamed.count == 70
    assert torch.equal(kept.block(10, 70), streamed.block(10, 90))
    assert torch.equal(kept.residuals, streamed.residuals)
    assert torch.equal(kept.block(0, 70), rows.take(order).bfloat16())
    assert torch.equal(ScreenRows(rows, "float32", scale=0.25).block(0, 100), torch.from_numpy(data * np.float32(0.25)))


def test_levels(monkeypatch):
    many = screen.SCREEN_PAYS
    monkeypatch.setattr(screen, "fast_bfloat16", lambda device: True)
    assert screen_levels("auto", many, 512, CPU) == ("bfloat16", "float32", "float64")
    assert screen_levels("auto", many, 512, torch.device("cuda")) == ("bfloat16", "float64")
    assert screen_levels("auto", many - 1, 512, CPU) == ("float64",)
    assert screen_levels("bfloat16", 1, 512, CPU) == ("bfloat16", "float32", "float64")
    assert screen_levels("bfloat16", many, screen.WIDEST, CPU) == ("float64",)
    assert screen_levels("float32", 1, 512, CPU) == ("float32", "float64")
    assert screen_levels("float64", many, 512, CPU) == ("float64",)
    monkeypatch.setattr(screen, "fast_bfloat16", lambda device: False)
    assert screen_levels("auto", many, 512, CPU) == ("float32", "float64")
    with pytest.raises(InputError, match=r"float16.*float64|bfloat16"):
        screen_levels("float16", 1, 1, CPU)


def test_fast_bfloat16_needs_the_instructions(monkeypatch, tmp_path):
    screen.fast_bfloat16.cache_clear()
    try:
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True}, raising=False)
        monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
        assert screen.fast_bfloat16(CPU)
        screen.fast_bfloat16.cache_clear()
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_f": True}, raising=False)
        assert not screen.fast_bfloat16(CPU)
        screen.fast_bfloat16.cache_clear()
        monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True}, raising=False)
        assert not screen.fast_bfloat16(CPU)
    finally:
        screen.fast_bfloat16.cache_clear()
