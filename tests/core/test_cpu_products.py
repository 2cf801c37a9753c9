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
SIZES = [(m, n, k) for m in (1, 7, 8, 12, 23, 40, 400) for n in (32, 96) for k in (1, 16, 37, 300)]


def made(dtype: torch.dtype, ops: tuple[str, str], a: Tensor, b: Tensor, start: Tensor | None, out: Tensor) -> None:
    """`out` (m, n) = op(a) op(b) + start; start is (n,), (m, n) or None."""
    library: Any = kernels(dtype)
    function = library.own_product
    function.restype, whole, at = None, ctypes.c_long, ctypes.c_void_p
    function.argtypes = [ctypes.c_char, at, ctypes.c_char, at, at, whole, at, whole, whole, whole]
    (m, n), k = out.shape, a.shape[0 if ops[0] == "T" else 1]
    step = 0 if start is None or start.ndim == 1 else n
    where = None if start is None else start.data_ptr()
    function(ops[0].encode(), a.data_ptr(), ops[1].encode(), b.data_ptr(), where, step, out.data_ptr(), m, n, k)


@needs_compiler
@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("ops", [("N", "N"), ("N", "T"), ("T", "N"), ("T", "T")], ids="".join)
def test_equals_the_product_in_float64(dtype: torch.dtype, ops: tuple[str, str]) -> None:
    draw = torch.Generator().manual_seed(0)
    for (m, n, k), kind in itertools.product(SIZES, ("nothing", "a bias", "itself")):
        a, b = (torch.randn(*shape, generator=draw, dtype=torch.float64).to(dtype) for shape in ((m, k), (k, n)))
        guard = torch.full((m * n + 64,), 7.0, dtype=dtype)
        out = guard[:-64].view(m, n)
        start = {"nothing": None, "a bias": torch.arange(n, dtype=dtype), "itself": out}[kind]
        before = 0 if start is None else start.double().clone()
        made(
            dtype,
            ops,
            a.t().contiguous() if ops[0] == "T" else a,
            b.t().contiguous() if ops[1] == "T" else b,
            start,
            out,
        )
        bound = 4 * torch.finfo(dtype).eps * (a.double().abs() @ b.double().abs() + abs(before) + 1)
        assert ((out.double() - (a.double() @ b.double() + before)).abs() <= bound).all(), (m, n, k, kind)
        assert (guard[-64:] == 7).all()


@needs_compiler
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_stays_so(bad: float) -> None:
    a, b, out = torch.ones(9, 20), torch.ones(20, 32), torch.empty(9, 32)
    a[4, 3] = bad
    made(torch.float32, ("N", "N"), a, b, None, out)
    assert torch.equal(out.isfinite().all(1), a.isfinite().all(1))


@needs_compiler
def test_sums_do_not_lose_digits_to_what_they_are_added_to() -> None:
    a, b, out = torch.full((4, 200), 1e-4), torch.ones(200, 32), torch.full((4, 32), 1e4)
    made(torch.float32, ("N", "N"), a, b, out, out)
    assert float((out - 1e4).mean()) == pytest.approx(0.02, abs=1e-3)


@needs_compiler
def test_it_is_there_for_the_widths_of_networks_and_for_no_others() -> None:
    library: Any = kernels(torch.float32)
    assert [library.has_product(n) for n in (64, 192, 384)] == [1, 1, 1]
    assert [library.has_product(n) for n in (1, 12, 40)] == [0, 0, 0]
