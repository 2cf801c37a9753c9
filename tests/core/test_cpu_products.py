"""Products of small matrices in C against those in float64."""

from __future__ import annotations

import ctypes
import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from ablate_core.cpu_kernels import kernels

needs_compiler = pytest.mark.skipif(kernels(torch.float32) is None, reason="this machine has no C compiler")
TYPES = [torch.float32, torch.float64]
SIZES = [(m, n, k) for m in (1, 7, 8, 12, 23, 40, 400) for n in (32, 96) for k in (0, 1, 16, 37, 300)]


class Matrix(ctypes.Structure):
    """`matrix` of common.h."""

    _fields_ = (("at", ctypes.c_void_p), ("step", ctypes.c_long), ("turned", ctypes.c_int))


class Factors(ctypes.Structure):
    """`factors_of` of common.h."""

    _fields_ = (
        ("a", Matrix), ("start", ctypes.c_void_p), ("start_step", ctypes.c_long), ("c", ctypes.c_void_p),
        ("c_step", ctypes.c_long), ("m", ctypes.c_long),
    )  # fmt: skip


class Ahead(ctypes.Structure):
    """`ahead` of common.h."""

    _fields_ = (("at", ctypes.c_void_p), ("count", ctypes.c_long))


def given(x: Tensor, turned: bool) -> Matrix:
    return Matrix(x.data_ptr(), x.stride(0), turned)


def factors(turned: bool, a: Tensor, start: Tensor | None, out: Tensor) -> Factors:
    step = 0 if start is None or start.ndim == 1 else start.stride(0)
    where = None if start is None else start.data_ptr()
    return Factors(given(a, turned), where, step, out.data_ptr(), out.stride(0), len(out))


def made(turned: tuple[bool, bool], a: Tensor, b: Tensor, start: Tensor | None, out: Tensor) -> None:
    """`out` (m, n) = a or a' times b or b' + start; start is (n,), (m, n) or None; rows may lie apart."""
    together([factors(turned[0], a, start, out)], turned[1], b, out, a.shape[0 if turned[0] else 1])


def together(parts: list[Factors], turned: bool, b: Tensor, out: Tensor, k: int) -> None:
    """Products with the same b or b'; `out` is one of them."""
    library: Any = kernels(out.dtype)
    function = library.own_products
    function.restype, whole = None, ctypes.c_long
    function.argtypes = [ctypes.c_void_p, whole, Matrix, whole, whole, Ahead]
    array = (Factors * len(parts))(*parts)
    function(array, len(parts), given(b, turned), out.shape[1], k, Ahead(b.data_ptr(), b.numel()))


def apart(x: Tensor, by: int) -> Tensor:
    """The same with `by` numbers of NaN between its rows."""
    return torch.nn.functional.pad(x, (0, by), value=float("nan"))[:, : x.shape[1]]


@needs_compiler
@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("turned", [*itertools.product([False, True], repeat=2)], ids=str)
@pytest.mark.parametrize("by", [0, 5])
def test_equals_the_product_in_float64(dtype: torch.dtype, turned: tuple[bool, bool], by: int) -> None:
    draw = torch.Generator().manual_seed(0)
    for (m, n, k), kind in itertools.product(SIZES, ("nothing", "a bias", "itself")):
        a, b = (torch.randn(*shape, generator=draw, dtype=torch.float64).to(dtype) for shape in ((m, k), (k, n)))
        guard = torch.full((m * (n + by) + 64,), 7.0, dtype=dtype)
        out = guard[:-64].view(m, n + by)[:, :n]
        start = {"nothing": None, "a bias": torch.arange(n, dtype=dtype), "itself": out}[kind]
        before = 0 if start is None else start.double().clone()
        both = (apart(x.t().contiguous() if turn else x, by) for x, turn in zip((a, b), turned, strict=True))
        made(turned, *both, start, out)
        bound = 4 * torch.finfo(dtype).eps * (a.double().abs() @ b.double().abs() + abs(before) + 1)
        assert ((out.double() - (a.double() @ b.double() + before)).abs() <= bound).all(), (m, n, k, kind)
        assert (guard[-64:] == 7).all()
        assert (guard[:-64].view(m, n + by)[:, n:] == 7).all()


@needs_compiler
@pytest.mark.parametrize("rows", [(400, 30), (30, 400), (1, 0, 800)], ids=str)
@pytest.mark.parametrize("turned", [False, True])
def test_products_with_one_matrix_are_those_made_one_by_one(rows: tuple[int, ...], turned: bool) -> None:
    draw = torch.Generator().manual_seed(0)
    b = torch.randn(96, 300, generator=draw) if turned else torch.randn(300, 96, generator=draw)
    several = [torch.randn(m, 300, generator=draw) for m in rows]
    starts = [torch.randn(96, generator=draw), None, torch.randn(800, 96, generator=draw)][: len(rows)]
    each, all_ = ([torch.full((m, 96), torch.nan) for m in rows] for _ in range(2))
    for a, start, out in zip(several, starts, each, strict=True):
        made((False, turned), a, b, start, out)
    parts = [factors(False, a, start, out) for a, start, out in zip(several, starts, all_, strict=True)]
    together(parts, turned, b, all_[0], 300)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(all_, each, strict=True))


@needs_compiler
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_stays_so(bad: float) -> None:
    a, b, out = torch.ones(9, 20), torch.ones(20, 32), torch.empty(9, 32)
    a[4, 3] = bad
    made((False, False), a, b, None, out)
    assert torch.equal(out.isfinite().all(1), a.isfinite().all(1))


@needs_compiler
def test_sums_do_not_lose_digits_to_what_they_are_added_to() -> None:
    a, b, out = torch.full((4, 200), 1e-4), torch.ones(200, 32), torch.full((4, 32), 1e4)
    made((False, False), a, b, out, out)
    assert float((out - 1e4).mean()) == pytest.approx(0.02, abs=1e-3)


@needs_compiler
def test_it_is_there_for_the_widths_of_networks_and_for_no_others() -> None:
    library: Any = kernels(torch.float32)
    assert [library.has_product(n) for n in (64, 192, 384)] == [1, 1, 1]
    assert [library.has_product(n) for n in (1, 12, 40)] == [0, 0, 0]
