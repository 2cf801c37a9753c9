"""A SiT block written out against the same block operation by operation, which autograd and `pairs` follow."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from ablate_core import cpu_kernels
from ablate_core.architectures import block_at_once, embeddings, native
from ablate_core.architectures.base import Network
from ablate_core.architectures.embeddings import TimeEmbedder
from ablate_core.architectures.pairs import Pair
from ablate_core.architectures.products import products
from ablate_core.architectures.sit import SiT
from ablate_core.cpu_kernels import REAL, kernels
from ablate_core.flat import Flat, writing_gradients
from ablate_core.packing.stack import Stack
from ablate_core.packing.stacked import Rows, UnstackableError

needs_compiler = pytest.mark.skipif(kernels(torch.float64) is None, reason="there is no C compiler")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def network(dtype: torch.dtype = torch.float64, seed: int = 0, **fields: Any) -> Network:
    torch.manual_seed(seed)
    given = {"size": "tiny/2", "depth": 2, "width": 32, "heads": 2} | fields
    net = SiT.model_validate(given).build((2, 8, 8), 10).to(dtype)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.2 * torch.randn_like(p))
    return net


def inputs(dtype: torch.dtype = torch.float64, rows: int = 7) -> dict[str, Tensor]:
    torch.manual_seed(1)
    t, x, part = (draw(*shape).to(dtype) for draw, *shape in ((rand, rows), (randn, rows, 2, 8, 8), (rand, rows)))
    return {"x": x, "r": (t * part).float().to(dtype), "t": t, "y": torch.arange(rows) % 11}


def rand(*shape: int) -> Tensor:
    return torch.rand(*shape).double()


def randn(*shape: int) -> Tensor:
    return torch.randn(*shape).double()


def everything(
    net: Network, *, tangents: int | Tensor | None, written_out: bool, in_place: bool = False
) -> list[Tensor]:
    """Value, tangent, and all gradients of a loss that depends on every output."""
    dtype = next(net.parameters()).dtype
    given = inputs(dtype)
    given["x"].requires_grad_()
    for p in net.parameters():
        p.grad = torch.zeros_like(p) if in_place else None
    out = []
    with native.written_out(written_out):
        if tangents is None:
            value = net(**given)
        else:
            count = tangents if isinstance(tangents, int) else len(tangents)
            index = None if isinstance(tangents, int) else tangents
            torch.manual_seed(2)
            dx, dt = randn(count, 2, 8, 8).to(dtype), randn(count).to(dtype)
            value, tangent = net.forward_beside_tangent(**given, dx=dx, dt=dt, index=index)
            assert not tangent.requires_grad
            out.append(tangent)
        assert (_node(value) is not None) == written_out
        torch.manual_seed(3)
        loss = (value * randn(*value.shape)).sum()
        if in_place:
            with writing_gradients():
                loss.backward()  # type: ignore[no-untyped-call]
        else:
            loss.backward()  # type: ignore[no-untyped-call]
    grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in net.parameters()]
    assert given["x"].grad is not None
    return [value.detach(), *out, *grads, given["x"].grad]


def _node(value: Tensor) -> Any:
    """The node of a block in the graph of `value`, or None."""
    seen, todo = set(), [value.grad_fn]
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if node.name() in ("_BlockBackward", "_NodeBackward"):
            return node
        todo += [before for before, _ in node.next_functions]
    return None


def error(ours: list[Tensor], theirs: list[Tensor]) -> float:
    """The largest relative difference of two tensors of the lists."""
    return max(float((a - b).norm() / b.norm().clamp(min=1e-30)) for a, b in zip(ours, theirs, strict=True) if b.any())


FIELDS: list[dict[str, Any]] = [
    {},  # 16 tokens of 2 heads of 16 channels: the compiler knows these sizes
    {"size": "tiny/4", "width": 64, "heads": 4},
    {"size": "tiny/2", "width": 24, "heads": 2},  # no multiple of a vector
    {"size": "tiny/1", "width": 16, "heads": 2},  # 64 tokens: products of whole matrices in attention too
    {"size": "tiny/1", "width": 64, "heads": 2},
    {"rope": "2d", "width": 16, "heads": 2},
    {"attention_bias": False},
    {"conditioning": "decoupled"},
]

TANGENTS = {
    "none": None,
    "3": 3,
    "all": 7,
    "index": torch.tensor([0, 2, 5]),
    "in no order": torch.tensor([5, 6, 0, 2, 2, 1]),
}


@pytest.fixture(params=["at once", "in groups", "call by call"])
def calls(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Blocks of few rows are one call, samples in groups; those of many are made of many. All with few rows here."""
    if request.param == "call by call":
        monkeypatch.setattr(native, "LARGEST", 0)
        monkeypatch.setattr(native, "NARROW", 0)
    together = [ctypes.c_long.in_dll(library, "rows_together") for dtype in REAL if (library := kernels(dtype))]
    before = [rows.value for rows in together]
    if request.param == "in groups":
        for rows in together:
            rows.value = 40
    yield
    for rows, usual in zip(together, before, strict=True):
        rows.value = usual


@needs_compiler
@pytest.mark.usefixtures("calls")
@pytest.mark.parametrize("fields", FIELDS, ids=str)
@pytest.mark.parametrize("tangents", TANGENTS.values(), ids=TANGENTS)
def test_equals_the_block_operation_by_operation(fields: dict[str, Any], tangents: int | Tensor | None) -> None:
    net = network(**fields)
    theirs = everything(net, tangents=tangents, written_out=False)
    assert error(everything(net, tangents=tangents, written_out=True), theirs) < 1e-12


@needs_compiler
@pytest.mark.usefixtures("calls")
def test_in_float32_it_is_as_close_to_the_truth_as_operations_are() -> None:
    net = network(torch.float32, width=64, heads=4).double()
    truth = everything(net, tangents=3, written_out=False)
    net.float()

    def off(written_out: bool) -> float:
        found = everything(net, tangents=3, written_out=written_out)
        return error(*([torch.cat([x.flatten() for x in all_])] for all_ in (found, truth)))

    assert off(True) < 1.5 * off(False) < 1e-3  # the weights are large, so errors grow


@needs_compiler
@pytest.mark.usefixtures("calls")
def test_adds_weight_gradients_where_they_are_wanted() -> None:
    net = network()
    theirs = everything(net, tangents=3, written_out=True)
    assert error(everything(net, tangents=3, written_out=True, in_place=True), theirs) < 1e-12


@needs_compiler
@pytest.mark.usefixtures("calls")
@pytest.mark.parametrize("fields", [{}, {"size": "tiny/1", "width": 16}, {"rope": "2d", "width": 16}], ids=str)
def test_may_be_differentiated_twice_and_by_autograd_grad(fields: dict[str, Any]) -> None:
    net, given = network(**fields), inputs()
    loss = net(**given).square().sum()
    weights = list(net.parameters())
    once = torch.autograd.grad(loss, weights, retain_graph=True, allow_unused=True)
    again = torch.autograd.grad(loss, weights, allow_unused=True)
    assert all(
        (a is None) == (b is None) and (a is None or torch.equal(a, b)) for a, b in zip(once, again, strict=True)
    )
    assert all(p.grad is None for p in weights)


@needs_compiler
@pytest.mark.usefixtures("calls")
@pytest.mark.parametrize("fields", [{}, {"rope": "2d", "width": 16}], ids=str)
def test_a_gradient_that_is_to_be_differentiated_is_refused(fields: dict[str, Any]) -> None:
    """Also where the gradient of the output is a constant, as that of a sum is: it would be one too, and is none."""
    net, given = network(**fields), inputs()
    given["x"].requires_grad_()
    loss = net(**given).sum()
    with pytest.raises(RuntimeError, match="differentiated again"):
        torch.autograd.grad(loss, given["x"], create_graph=True)
    loss.backward()


@needs_compiler
@pytest.mark.usefixtures("calls")
def test_without_a_graph_it_is_the_same_and_keeps_none() -> None:
    net, given = network(), inputs()
    with torch.no_grad():
        ours = net(**given)
    assert not ours.requires_grad
    torch.testing.assert_close(ours, net(**given).detach(), rtol=0, atol=0)


@needs_compiler
@pytest.mark.parametrize("in_place", [False, True])
def test_a_block_of_no_samples_has_gradients_of_zero(in_place: bool) -> None:
    block: Any = cast("Any", network()).blocks[0]
    weights = [layer.weight for layer in (block.modulation, block.qkv, block.project, block.expand, block.contract)]
    for p in weights:
        p.grad = torch.zeros_like(p) if in_place else None
    h, c = (torch.empty(*shape, dtype=torch.float64, requires_grad=True) for shape in ((0, 16, 32), (0, 32)))
    with writing_gradients() if in_place else contextlib.nullcontext():
        out, _ = block_at_once.run(block, h, c, None)
        out.sum().backward()  # type: ignore[no-untyped-call]
    assert out.shape == h.shape
    assert not any(p.grad.any() for p in weights)


@needs_compiler
def test_without_a_graph_no_more_is_written_for_many_samples_than_for_a_group() -> None:
    library: Any = kernels(torch.float32)
    sizes = 16, 32, 2, 128

    def beside_factors(samples: int, keep: bool) -> int:
        used: int = library.used_by_forward(samples, *sizes, keep)
        return used - samples * 6 * 32

    assert beside_factors(1600, False) == beside_factors(16, True) == beside_factors(1600, True) / 100


@needs_compiler
def test_weights_may_move_between_the_two_passes() -> None:
    net = network()
    loss = net(**inputs()).square().sum()
    theirs = torch.autograd.grad(loss, list(net.parameters()), retain_graph=True, allow_unused=True)
    blocks: Any = net.blocks
    before = [p.data for p in blocks.parameters()]
    Stack([Flat(net), Flat(network(seed=1))])
    for old in before:
        old.fill_(torch.nan)
    ours = torch.autograd.grad(loss, list(net.parameters()), allow_unused=True)
    assert all(a is None or torch.equal(a, b) for a, b in zip(ours, theirs, strict=True) if b is not None)


@needs_compiler
@pytest.mark.usefixtures("calls")
@pytest.mark.parametrize("places", [[0, 1, 2], [0, 2]], ids=str)
def test_a_stack_of_networks_equals_each_alone(places: list[int]) -> None:
    nets = [network(seed=seed) for seed in range(3)]
    alone = []
    for net in nets:
        out = net(**inputs())
        out.square().sum().backward()
        alone.append([out.detach(), *(p.grad.clone() for p in net.parameters() if p.grad is not None)])
        net.zero_grad()
    flats = [Flat(net) for net in nets]
    stack = Stack(flats)
    joint = {name: torch.cat([x] * len(places)) for name, x in inputs().items()}
    out = stack.module(places)(**joint)
    assert _node(out) is not None
    out.square().sum().backward()
    stack.hand_out_gradients({flats[place] for place in places})
    for place, value in zip(places, out.detach().chunk(len(places)), strict=True):
        (theirs, *grads), gradient = alone[place], flats[place].whole.grad
        assert gradient is not None
        own = [g for g in flats[place].named(gradient).values() if g.any()]
        assert error([value, *own], [theirs, *grads]) < 1e-12


@needs_compiler
@pytest.mark.usefixtures("calls")
@pytest.mark.parametrize("counts", [[3, 0, 2], [2, 2, 2]], ids=str)
def test_a_stack_carries_tangents_of_as_many_rows_as_each_wants(counts: list[int]) -> None:
    nets, given = [network(seed=seed) for seed in range(3)], inputs()
    rows = len(given["x"])
    index = torch.cat([torch.arange(rows - count, rows) + i * rows for i, count in enumerate(counts)])
    torch.manual_seed(4)
    dx, dt = randn(len(index), 2, 8, 8), randn(len(index))
    theirs = [
        net.forward_beside_tangent(**given, dx=a, dt=b)[1]
        for net, a, b in zip(nets, dx.split(counts), dt.split(counts), strict=True)
        if len(a)
    ]
    stack = Stack([Flat(net) for net in nets])
    joint = {name: torch.cat([x] * 3) for name, x in given.items()}
    _, ours = stack.module(range(3), tangents=counts).forward_beside_tangent(**joint, dx=dx, dt=dt, index=index)
    assert error([ours], [torch.cat(theirs)]) < 1e-12


@needs_compiler
@pytest.mark.usefixtures("calls")
def test_a_stack_takes_as_many_rows_as_each_has() -> None:
    nets, given, counts = [network(seed=seed) for seed in range(3)], inputs(), [4, 7]
    with torch.no_grad():
        parts = [{name: x[:count] for name, x in given.items()} for count in counts]
        theirs = torch.cat([nets[place](**part) for place, part in zip([0, 2], parts, strict=True)])
        stack = Stack([Flat(net) for net in nets])
        joint = {name: torch.cat([part[name] for part in parts]) for name in given}
        assert error([stack.module([0, 2], counts)(**joint)], [theirs]) < 1e-12


ODD: dict[str, dict[str, Any]] = {
    "strided rows": {"index": torch.arange(8)[::2][:3]},
    "rows in int32": {"index": torch.tensor([0, 2, 4], dtype=torch.int32)},
    "a time's tangent of another dtype": {"dt": torch.tensor([0.5, -1, 2], dtype=torch.float32)},
    "a time's tangent of one row": {"dt": torch.tensor([0.5], dtype=torch.float64)},
    "times of one row": {
        "t": torch.tensor([0.5], dtype=torch.float64), "r": torch.tensor([0.25], dtype=torch.float64),
        "dt": torch.tensor([0.5], dtype=torch.float64), "y": torch.tensor([3]), "index": None, "dx": None,
    },
}  # fmt: skip


@needs_compiler
@pytest.mark.usefixtures("calls")
@pytest.mark.parametrize("odd", ODD.values(), ids=ODD)
def test_odd_inputs_are_met_as_torch_meets_them(odd: dict[str, Any]) -> None:
    net, given = network(), inputs()
    dx, dt = randn(3, 2, 8, 8), randn(3)
    given |= {"dx": dx, "dt": dt, "index": torch.tensor([0, 2, 4])} | odd
    if given["index"] is not None:
        rows = native.samples_of(Pair(given["x"], dx, given["index"]))
        assert rows.dtype == torch.int64, "what C reads"
        assert rows.is_contiguous()
    if given["dx"] is None:
        given = {name: given[name] for name in ("x", "r", "t", "y")}

    def found(written_out: bool) -> list[Tensor]:
        with native.written_out(written_out), torch.no_grad():
            return [*net.forward_beside_tangent(**given)] if "dx" in given else [net(**given)]

    for ours, theirs in zip(found(True), found(False), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


@needs_compiler
@pytest.mark.usefixtures("calls")
@pytest.mark.parametrize("in_place", [False, True])
def test_weights_need_not_be_contiguous(in_place: bool) -> None:
    net = network()
    for p in net.parameters():
        p.data = p.data.t().contiguous().t() if p.ndim == 2 else p.data.repeat_interleave(2)[::2] if p.ndim == 1 else p
    ours = everything(net, tangents=3, written_out=True, in_place=in_place)
    assert error(ours, everything(net, tangents=3, written_out=False)) < 1e-12


@needs_compiler
@pytest.mark.usefixtures("calls")
def test_what_is_frozen_after_gradients_were_held_gets_none() -> None:
    net = network()
    flat, block = Flat(net), cast("Any", net).blocks[0]
    flat.hold_gradients()
    block.requires_grad_(False)
    with writing_gradients():
        net(**inputs()).square().sum().backward()
    assert not any(p.grad.any() for p in block.parameters())
    assert all(p.grad.any() for p in cast("Any", net).blocks[1].parameters())


@needs_compiler
def test_the_default_device_of_the_first_call_does_not_matter() -> None:
    net, given = network(), inputs()
    more = {"dx": randn(3, 2, 8, 8), "dt": randn(3)}
    with torch.no_grad():
        wanted = net.forward_beside_tangent(**given, **more)
        native._last.cache_clear()
        embeddings._time_frequencies.cache_clear()
        try:
            with torch.device("meta"):
                made = native._last(7, 3), embeddings._time_frequencies(torch.float64)
            assert all(x.device.type == "cpu" for x in made)
            for a, b in zip(net.forward_beside_tangent(**given, **more), wanted, strict=True):
                torch.testing.assert_close(a, b, rtol=0, atol=0)
        finally:
            native._last.cache_clear()
            embeddings._time_frequencies.cache_clear()


@needs_compiler
@pytest.mark.parametrize("counts", [None, [4, 3, 2]], ids=str)
def test_a_stack_refuses_one_time_for_all(counts: list[int] | None) -> None:
    stack, given = Stack([Flat(network(seed=seed)) for seed in range(3)]), inputs(rows=9)
    given |= {"r": given["r"][:1], "t": given["t"][:1]}
    with pytest.raises(UnstackableError, match="1 rows"):
        Rows(3, None, counts).divided(1, 0)  # by which C reads and writes
    with torch.no_grad(), pytest.raises(UnstackableError, match="1 rows"):
        stack.module(range(3), counts)(**given)


@needs_compiler
def test_the_backward_pass_of_unequal_batches_writes_only_in_its_own_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """One of 17 samples takes less memory than one of 16: it goes in two groups."""
    stack = Stack([Flat(network(seed=seed)) for seed in range(2)])
    out = stack.module(range(2), [17, 16])(**inputs(rows=33))
    behind, real = [], Tensor.new_empty

    def guarded(x: Tensor, *size: Any, **more: Any) -> Tensor:
        count = torch.Size(size).numel()
        whole = real(x, count + 200_000, **more).fill_(7)
        behind.append(whole[count:])
        return whole[:count].view(*size)

    monkeypatch.setattr(Tensor, "new_empty", guarded)
    out.square().sum().backward()
    monkeypatch.undo()
    assert behind
    assert all((guard == 7).all() for guard in behind)


@needs_compiler
@pytest.mark.usefixtures("calls")
@pytest.mark.parametrize("around", ["cast", "transform", "dual", "threads"])
def test_gives_way_where_it_cannot(around: str) -> None:
    net, given = network(torch.float32), inputs(torch.float32)
    x = given.pop("x")
    with torch.no_grad():
        theirs = net(x, **given)
    if around == "cast":
        with torch.autocast("cpu", torch.bfloat16):
            assert _node(net(x, **given)) is None
    elif around == "threads":
        torch.set_num_threads(2)
        assert _node(net(x, **given)) is None
    elif around == "transform":
        value, slope = torch.func.jvp(lambda x: net(x, **given), (x,), (x,))
        torch.testing.assert_close(value.detach(), theirs, rtol=1e-4, atol=1e-5)
        assert slope.any()
    else:
        with torch.autograd.forward_ad.dual_level():
            out = torch.autograd.forward_ad.unpack_dual(net(torch.autograd.forward_ad.make_dual(x, x), **given))
        assert out.tangent is not None


@needs_compiler
@pytest.mark.usefixtures("calls")
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_stays_so(bad: float) -> None:
    """Divergence is looked for in the loss: no loop may hide it."""
    net, given = network(torch.float32), inputs(torch.float32)
    given["x"][3, 0, 0, 0] = bad
    out = net(**given)
    assert not out[3].isfinite().any()
    assert out[[0, 1, 2, 4, 5, 6]].isfinite().all()


@needs_compiler
@pytest.mark.usefixtures("calls")
def test_a_row_whose_squares_overflow_is_not_finite() -> None:
    net, given = network(torch.float32), inputs(torch.float32)
    given["x"][3] *= 1e25
    out = net(**given)
    assert not out[3].isfinite().any()
    assert out[[0, 1, 2, 4, 5, 6]].isfinite().all()


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gelu_and_its_derivative_everywhere(dtype: torch.dtype) -> None:
    x = torch.linspace(-60, 60, 24_001, dtype=torch.float64).to(dtype)
    library: Any = kernels(dtype)
    out, derivative = torch.empty_like(x), torch.empty_like(x)
    library.gelu(x.data_ptr(), out.data_ptr(), derivative.data_ptr(), x.numel())
    exact = x.double().requires_grad_()
    truth = torch.nn.functional.gelu(exact, approximate="tanh")
    (slope,) = torch.autograd.grad(truth.sum(), exact)
    near = 5e-7 if dtype == torch.float32 else 1e-13
    torch.testing.assert_close(out.double(), truth.detach(), rtol=near, atol=near)
    torch.testing.assert_close(derivative.double(), slope, rtol=2 * near, atol=2 * near)


@needs_compiler
def test_the_derivative_of_gelu_is_0_or_1_for_huge_numbers() -> None:
    x = torch.tensor([1e4, 1e5, 1e12, 1e18, 1e30, 3e38] * 40)
    x = torch.cat([x, -x, torch.tensor([float("nan"), float("inf")])])
    out, derivative, library = torch.empty_like(x), torch.empty_like(x), cast("Any", kernels(torch.float32))
    library.gelu(x.data_ptr(), out.data_ptr(), derivative.data_ptr(), x.numel())
    torch.testing.assert_close(derivative[:-2], (x[:-2] > 0).float(), rtol=0, atol=1e-15)
    assert not derivative[-2:].isfinite().any(), "what has diverged stays so"


MANY_TANGENTS = """
import torch
from ablate_core.architectures import block_at_once, ends_on_cpu
from ablate_core.architectures.pairs import Pair
from ablate_core.architectures.sit import SiT
torch.set_num_threads(1)
net = SiT.model_validate({"size": "tiny/1", "depth": 1, "width": 4, "heads": 1}).build((1, 1, 1), 0)
rows = torch.arange(300_000)
h, c = torch.randn(len(rows), 1, 4), torch.randn(len(rows), 4)
with torch.no_grad():
    assert block_at_once.run(net.blocks[0], h, c, (h, c, rows))[1].isfinite().all()
    assert ends_on_cpu.finish(net.modulation, net.output, Pair(h, h, rows), Pair(c, c, rows)).tangent.isfinite().all()
"""


@needs_compiler
def test_a_small_stack_is_enough_for_many_tangents() -> None:
    def small() -> None:
        resource.setrlimit(resource.RLIMIT_STACK, (2**21, resource.getrlimit(resource.RLIMIT_STACK)[1]))

    subprocess.run([sys.executable, "-c", MANY_TANGENTS], check=True, preexec_fn=small)


@needs_compiler
def test_no_function_of_another_library_takes_the_place_of_ours(tmp_path: Path) -> None:
    """What is loaded for all, as by LD_PRELOAD, may have functions of such names."""
    source, other = tmp_path / "other.c", tmp_path / "other.so"
    names = "begin", "attention", "linear_back", "add", "add_back", "gelu", "own_products"
    source.write_text("".join(f"void {name}(void) {{ __builtin_trap(); }}\n" for name in names))
    subprocess.run([shutil.which("cc") or "gcc", "-shared", "-fPIC", str(source), "-o", str(other)], check=True)
    env = os.environ | {"LD_PRELOAD": str(other)}
    subprocess.run([sys.executable, "-c", MANY_TANGENTS.replace("300_000", "3")], check=True, env=env)


@needs_compiler
def test_the_power_of_what_is_no_number_shifts_no_negative_number(tmp_path: Path) -> None:
    program = tmp_path / "power"
    command = [shutil.which("cc") or "gcc", "-x", "c", "-", "-o", str(program)]
    code = '#include "common.h"\nfloat least_power = -87, largest_power = 88;\n'
    code += "int main(int n, char **with) { volatile float x = NAN; return !isnan(exponential(x)); }\n"
    checks = ["-fsanitize=shift", "-fsanitize-undefined-trap-on-error", f"-I{cpu_kernels.SOURCES[0].parent}", "-lm"]
    subprocess.run([*command, *checks], check=True, input=code, text=True)
    subprocess.run([str(program)], check=True)


@needs_compiler
def test_compilers_that_know_no_has_builtin_get_by(tmp_path: Path) -> None:
    """GCC 9, which takes the question itself for a mistake."""
    source = cpu_kernels.SOURCES[0].parent / "products.c"
    command = [shutil.which("cc") or "gcc", "-march=native", "-std=gnu11", "-fsyntax-only", "-U__has_builtin"]
    subprocess.run([*command, str(source)], check=True)


def test_products_of_many_and_few_rows_are_those_of_torch() -> None:
    torch.manual_seed(0)
    layer = torch.nn.Linear(24, 40)
    for rows in (5, 700):
        x, slope = torch.randn(rows, 24, requires_grad=True), torch.randn(rows, 40)
        out = layer(x)
        theirs = torch.autograd.grad(out, (x, layer.weight, layer.bias), slope)
        own = products(layer)
        with torch.no_grad():
            into, weights = own.pull_back(slope, x)
            torch.testing.assert_close(own.forward(x), out, rtol=1e-5, atol=1e-5)
            for ours, wanted in zip((into, *weights), theirs, strict=True):
                torch.testing.assert_close(ours, wanted, rtol=1e-5, atol=1e-4)


@needs_compiler
def test_the_library_is_compiled_once_and_again_where_it_is_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    real = subprocess.run

    def counted(*args: Any, **more: Any) -> Any:
        calls.append(args)
        return real(*args, **more)

    def found(folder: Path) -> Path:
        monkeypatch.setenv("ABLATE_CACHE", str(folder))
        kernels.cache_clear()
        assert kernels(torch.float64) is not None
        return next((folder / "kernels").glob("*.so"))

    monkeypatch.setattr(cpu_kernels.subprocess, "run", counted)
    monkeypatch.setattr(cpu_kernels, "FLAGS", ["-O0", "-std=gnu11", "-shared", "-fPIC"])  # sooner done
    made = found(tmp_path / "a")
    assert found(tmp_path / "a") == made
    assert len(calls) == 1
    content = made.read_bytes()
    half = content[: len(content) // 2]
    damages = [b"", b"no library", half, half.ljust(len(content), b"\0")]
    load = ctypes.CDLL

    def loaded(name: str) -> ctypes.CDLL:
        assert Path(name).read_bytes() not in damages, "half a library ends the process that loads it"
        return load(name)

    monkeypatch.setattr(cpu_kernels.ctypes, "CDLL", loaded)
    for i, damage in enumerate(damages):
        damaged = tmp_path / str(i) / "kernels" / made.name
        damaged.parent.mkdir(parents=True)
        damaged.write_bytes(damage)
        for _ in range(2):  # compiled anew, then found
            assert found(tmp_path / str(i)) == damaged
            assert len(calls) == 2 + i
    kernels.cache_clear()


FAILING = {
    "a compiler that fails": "echo the compiler is ill >&2; exit 1",
    "one whose message is not UTF-8": "printf 'the compiler is ill \\351\\n' >&2; exit 1",
    "one that leaves no function": 'while [ "$1" != -o ]; do shift; done; cc -shared -fPIC -x c /dev/null -o "$2"',
}


@needs_compiler
@pytest.mark.parametrize("before", ["env A=1 ", "'{}' "], ids=["a program before it", "a path with spaces"])
def test_the_compiler_may_be_several_words(before: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ABLATE_CACHE", str(tmp_path / "cache"))
    wrapper = tmp_path / "a b"
    wrapper.write_text('#!/bin/sh\nexec "$@"\n')
    wrapper.chmod(0o755)
    monkeypatch.setenv("CC", before.format(wrapper) + "cc -g0")
    monkeypatch.setattr(cpu_kernels, "FLAGS", ["-O0", "-std=gnu11", "-shared", "-fPIC"])
    kernels.cache_clear()
    try:
        assert kernels(torch.float64) is not None
    finally:
        kernels.cache_clear()


@pytest.mark.parametrize("why", ["switched off", "no compiler", *FAILING])
def test_without_loops_torch_does_it(why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ABLATE_CACHE", str(tmp_path))
    compiler = tmp_path / "cc"
    if why == "switched off":
        monkeypatch.setenv("ABLATE_KERNELS", "0")
    elif why == "no compiler":
        monkeypatch.setenv("CC", str(compiler))
    else:
        compiler.write_text(f"#!/bin/sh\n{FAILING[why]}\n")
        compiler.chmod(0o755)
        monkeypatch.setenv("CC", str(compiler))
    kernels.cache_clear()
    try:
        net, given = network(torch.float32), inputs(torch.float32)
        if why in FAILING:
            with pytest.warns(UserWarning, match="no C loops on this machine.*(the compiler is ill|undefined symbol)"):
                out = net(**given)
        else:
            out = net(**given)
        assert _node(out) is None
        out.sum().backward()
    finally:
        kernels.cache_clear()


@needs_compiler
@pytest.mark.parametrize("scale", [1, 1000])
def test_an_embedded_time_is_as_close_to_the_truth_as_torch_has_it(scale: int) -> None:
    torch.manual_seed(0)
    embedder, t = TimeEmbedder(16, scale), torch.rand(600)
    with torch.no_grad():
        ours = embedder(t)
        with native.written_out(False):
            theirs = embedder(t)
            truth = embedder.double()(t.double())
    assert 0 < error([ours.double()], [truth]) < max(2 * error([theirs.double()], [truth]), 1e-6)
