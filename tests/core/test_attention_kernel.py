"""The CUDA kernel of attention with a tangent, interpreted on the CPU, against the matrix products it replaces.

Half precision is float16 here: Triton's interpreter multiplies bfloat16 matrices wrongly (3.9.0: a bare `tl.dot` of two
is off by ten orders of magnitude). `make gpu-check` compares bfloat16 on a device.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

PROGRAM = """
import torch
from ablate_core.attention_kernel import attention_tangent, suits
from ablate_core.architectures.pairs import attention_tangent as explicit

draw = torch.Generator().manual_seed(0)
for shape, dtype, bound in (((2, 3, 70, 24), torch.float32, 2e-6), ((2, 33, 16), torch.float32, 2e-6),
                            ((1, 2, 40, 16), torch.float16, 5e-3)):
    given = [(3 * torch.randn(shape, generator=draw)).to(dtype) for _ in range(6)]
    given[1] = given[1].transpose(0, 1).contiguous().transpose(0, 1)  # strided, as heads are
    assert suits(*given)
    if dtype == torch.float32 and len(shape) == 4:  # q, k, v as views of one product, their tangents of another
        b, h, n, d = shape
        given = [x for _ in range(2) for x in torch.randn(b, n, 3, h, d, generator=draw).permute(2, 0, 3, 1, 4)]
    exact = explicit(*(x.double() for x in given))
    for ours, theirs in zip(attention_tangent(*given), exact, strict=True):
        assert ours.shape == shape and ours.dtype == dtype
        error = float((ours.double() - theirs).norm() / theirs.norm())
        assert error < bound, (shape, dtype, error)
assert not suits(*(x.double() for x in given))
assert not suits(*given[:5], given[5].float())
print("agree")
"""


@pytest.mark.slow
def test_the_kernel_gives_the_value_and_the_tangent_of_attention() -> None:
    """Tokens and channels that fill no tile, several tiles of keys, one or two leading axes."""
    pytest.importorskip("triton")
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.stdout.strip() == "agree", run.stderr[-2000:]
