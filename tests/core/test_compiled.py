"""Compiled networks: equal to the eager ones, never in the way of a trial, and a cache that nothing can poison."""

from __future__ import annotations

import os
import signal
import threading
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ablate_core import compiled as compiled_module
from ablate_core.architectures.base import Network
from ablate_core.compile_cache import CompileCache
from ablate_core.compiled import CompiledCompute, CompiledNetwork, _perturbed, chosen, sampling_calls
from ablate_core.compute import ALONE, Compute
from ablate_core.config import TrialConfig
from ablate_core.evaluation import network_samples
from ablate_core.packing import pack_key
from ablate_core.preparation import build_network, load_data
from ablate_core.random import Draws
from ablate_core.trainer import Result, train

ROWS = 6


class Tiny(Network):
    """As little as can be compiled: a scale, a time and a derivative of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3, dtype=torch.float64))

    def forward(self, x: Tensor, r: Tensor, t: Tensor, y: Tensor | None, g: Tensor | None = None) -> Tensor:
        return x * self.weight.exp() + (t - r)[:, None]

    def forward_and_tangent(  # type: ignore[override]
        self, x: Tensor, r: Tensor, t: Tensor, y: Tensor | None, dx: Tensor, dt: Tensor
    ) -> tuple[Tensor, Tensor]:
        return self(x, r, t, y), dx * self.weight.exp() + dt[:, None]


def inputs(rows: int = ROWS, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, None]:
    draw = torch.Generator().manual_seed(seed)
    x, r, t = torch.randn(rows, 3, generator=draw), torch.rand(rows, generator=draw), torch.rand(rows, generator=draw)
    return x.double(), r.double(), t.double(), None


def trial(**train_fields: Any) -> TrialConfig:
    return TrialConfig.model_validate(
        {
            "schedule": "linear",
            "objective": "meanflow",
            "architecture": {"name": "sit", "size": "tiny/4", "depth": 1, "width": 16, "heads": 2},
            "data": "digits",
            "train": {"steps": 4, "batch_size": 16, "lr": 1e-3, "log_every": 1, **train_fields},
            "eval": {"metric": "fd_digits", "samples": 20, "gallery": 0},
        }
    )


def samples(count: int, every: int = 0) -> TrialConfig:
    """A compiled trial that measures so many samples, in batches of 20."""
    written = trial(compile=True).model_dump(mode="json")
    written["eval"] |= {"samples": count, "batch_size": 20, "every": every}
    return TrialConfig.model_validate(written)


def run(config: TrialConfig, folder: Path) -> tuple[Result, list[float], dict[str, Tensor]]:
    """The result, the losses and the last weights."""
    events: list[dict[str, Any]] = []
    result = train(config, folder, report=events.append)
    losses = [event["values"]["loss"] for event in events if event["kind"] == "scalar"]
    return result, losses, torch.load(folder / "checkpoint.pt", weights_only=True)["net"]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ABLATE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


def compile_as(monkeypatch: pytest.MonkeyPatch, wrong: Callable[[Any], Any]) -> list[str]:
    """Replace the compiler: its code gives `wrong` of what the function gives. Returns the names of what was called."""
    called: list[str] = []

    def fake(function: Any, **options: Any) -> Any:
        def compiled(*args: Any, **kwargs: Any) -> Any:
            called.append(function.__name__)
            return wrong(function(*args, **kwargs))

        return compiled

    monkeypatch.setattr(torch, "compile", fake)
    return called


def fails(out: Any) -> Any:
    raise RuntimeError("no compiler\nat all")


# --- what is computed


@pytest.mark.timeout(1800)  # a C++ compiler on a loaded machine
def test_compiled_code_gives_the_network_and_comes_back_from_the_archive(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one true compilation of the fast tests: values, gradients, any number of rows, and a second process' view.

    Of scalar code: to find out which vector instructions the compiler has, and to use them, takes three times as long;
    the slow tests do.
    """
    monkeypatch.setattr("torch._inductor.config.cpp.vec_isa_ok", False)
    net = Tiny()
    compute = CompiledCompute({"name": "tiny"})
    compiled = compute.network(net, "net")
    for rows in (ROWS, 9, 2, 1):
        eager, ours = net(*inputs(rows)), compiled(*inputs(rows))
        torch.testing.assert_close(ours, eager, rtol=1e-12, atol=1e-12)
        (theirs,) = torch.autograd.grad(eager.square().sum(), [net.weight])
        compute.backward(ours.square().sum())
        torch.testing.assert_close(net.weight.grad, theirs, rtol=1e-12, atol=1e-12)
        net.weight.grad = None
    costs = compute.costs()
    assert costs["compiled_graphs"] == 1, "one graph for every number of rows"
    assert 0 < costs["compile_cpu_seconds"]
    assert not compute.costs()

    torch._dynamo.reset()  # as a process that has compiled nothing
    torch._dynamo.utils.counters.clear()
    again = CompiledCompute({"name": "tiny"}).network(net, "net")
    torch.testing.assert_close(again(*inputs()), net(*inputs()), rtol=1e-12, atol=1e-12)
    found = torch._dynamo.utils.counters["aot_autograd"]
    assert found["autograd_cache_hit"] == 1
    assert not found["autograd_cache_miss"]


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("objective", ["fm", "meanflow", "guided", "tvm"])
def test_fifty_compiled_steps_are_fifty_eager_steps(objective: str, tmp_path: Path) -> None:
    written = {"name": "meanflow", "guidance": {"name": "omega_kappa", "omega": 1.0, "kappa": 0.5}}
    base = trial(steps=50, lr=1e-4).model_dump(mode="json")
    base["objective"] = written if objective == "guided" else objective
    eager, losses, weights = run(TrialConfig.model_validate(base), tmp_path / "eager")
    base["train"]["compile"] = True
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "train.compile")
        compiled, ours, own = run(TrialConfig.model_validate(base), tmp_path / "compiled")
    assert eager.status == compiled.status == "done"
    torch.testing.assert_close(torch.tensor(ours), torch.tensor(losses), rtol=1e-4, atol=1e-5)
    for name, weight in weights.items():
        assert (own[name] - weight).norm() <= 2e-3 * weight.norm() + 1e-5, name


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.filterwarnings("error:train.compile")
@pytest.mark.parametrize(("dtype", "largest"), [(torch.float32, 1e-6), (torch.float64, 1e-10)])
def test_loss_and_gradient_of_compiled_meanflow(dtype: torch.dtype, largest: float) -> None:
    from ablate_core.objective import Batch

    config = trial()
    torch.manual_seed(0)
    net = config.architecture.build((1, 8, 8), 10).to(dtype)
    for p in net.parameters():
        p.data += 0.02 * torch.randn_like(p)
    compute = CompiledCompute(config.architecture.model_dump(mode="json"))
    draw = torch.Generator().manual_seed(1)
    batch = Batch(torch.randn(16, 1, 8, 8, generator=draw, dtype=dtype), torch.arange(16) % 10, 10)
    found = []
    for called in (net, compute.network(net, "net")):
        loss = config.objective.loss(called, called, config.schedule, batch, Draws(0, 3), 3, 10).per_sample.mean()
        gradient = torch.autograd.grad(loss, list(net.parameters()), allow_unused=True)
        found.append(torch.cat([loss.reshape(1), *(g.flatten() for g in gradient if g is not None)]))
    assert (found[0] - found[1]).norm() <= largest * found[0].norm()


# --- what never may happen


@pytest.mark.parametrize("wrong", [fails, lambda out: out, lambda out: (out[0], 1.01 * out[1])])
def test_a_trial_is_the_same_whatever_the_compiler_does(
    wrong: Callable[[Any], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A compiler that fails, one that works, and one whose derivative is wrong."""
    _, losses, weights = run(trial(), tmp_path / "eager")
    called = compile_as(monkeypatch, wrong)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result, ours, own = run(trial(compile=True), tmp_path / "compiled")
    told = [str(w.message) for w in caught if "train.compile" in str(w.message)]
    works = wrong((1, 1)) == (1, 1) if wrong is not fails else False
    assert called
    assert result.status == "done"
    assert len(told) == (0 if works else 1)
    assert all("\n" not in line for line in told)
    assert ours == losses
    assert all(torch.equal(own[name], weights[name]) for name in weights)


def test_a_fault_is_noticed_though_the_output_starts_at_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    net = trial().architecture.build((1, 8, 8), 10)
    compile_as(monkeypatch, lambda out: 1.01 * out)
    compiled = CompiledCompute({}).network(net, "net")
    x, t = torch.randn(4, 1, 8, 8), torch.rand(4)
    with torch.no_grad(), pytest.warns(UserWarning, match="gives other numbers"):
        assert torch.count_nonzero(compiled(x, t, t, torch.arange(4))) == 0


def test_a_dropped_derivative_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    net = Tiny()
    compile_as(monkeypatch, lambda out: out.detach() + 0 * net.weight.sum())
    compiled = CompiledCompute({}).network(net, "net")
    with pytest.warns(UserWarning, match="gives other numbers"):
        out = compiled(*inputs())
    assert torch.equal(torch.autograd.grad(out.sum(), [net.weight])[0], inputs()[0].sum(0))


def test_code_that_breaks_later_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    broken: list[int] = []

    def wrong(out: Any) -> Any:
        return fails(out) if broken else out

    called = compile_as(monkeypatch, wrong)
    compiled = CompiledCompute({}).network(net := Tiny(), "net")
    assert torch.equal(compiled(*inputs()), net(*inputs()))
    broken.append(1)
    with pytest.warns(UserWarning, match="no compiler$"):
        assert torch.equal(compiled(*inputs()), net(*inputs()))
    before = len(called)
    assert torch.equal(compiled(*inputs()), net(*inputs()))
    assert len(called) == before


def test_what_cannot_be_compiled_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """One row, a transform of torch around the call, a derivative by torch, dropout, sampling."""
    called = compile_as(monkeypatch, lambda out: out)
    compute, net = CompiledCompute({}), Tiny()
    compiled = compute.network(net, "net")
    x, r, t, y = inputs()
    compiled(*inputs(1))
    torch.func.jvp(lambda at: compiled(at, r, t, y), (x,), (x,))
    with torch.autograd.forward_ad.dual_level():
        compiled(torch.autograd.forward_ad.make_dual(x, x), r, t, y)
    assert not called
    monkeypatch.delattr(Tiny, "forward_and_tangent")
    value, tangent = compiled.forward_and_tangent(x, r, t, y, x, t)
    assert not called
    assert torch.equal(tangent, x * net.weight.exp() + t[:, None])
    assert torch.equal(value, net(x, r, t, y))
    assert compute.network(net, "eval") is net

    class Dropping(Tiny):
        def use_dropout(self, seed: int | None) -> None:
            """Overridden, so that the network draws masks."""

    with pytest.warns(UserWarning, match="Dropping draws new dropout masks"):
        assert not isinstance(compute.network(Dropping(), "net"), CompiledNetwork)


def test_only_a_trial_that_asks_and_computes_alone_is_compiled() -> None:
    other = Compute()
    assert chosen(trial(), ALONE) is ALONE
    assert chosen(trial(compile=True), other) is other
    assert isinstance(chosen(trial(compile=True), ALONE), CompiledCompute)
    seldom, often = (chosen(samples(count), ALONE) for count in (20 * 499, 20 * 499 + 1))
    assert seldom.network(net := Tiny(), "eval") is net
    assert isinstance(often.network(net, "eval"), CompiledNetwork)
    assert pack_key(trial()) is not None
    assert pack_key(trial(compile=True)) is None


def test_calls_of_all_measurements_count() -> None:
    assert sampling_calls(samples(100)) == 5
    assert sampling_calls(samples(101)) == 6
    assert sampling_calls(samples(100, every=2)) == 10  # 4 steps: at 2, and at the end
    assert sampling_calls(samples(100, every=3)) == 10
    assert sampling_calls(samples(100, every=1)) == 20


def test_sampling_is_compiled_and_measures_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a compiler that returns the function: what is called, in which mode, and the number."""
    monkeypatch.setattr(compiled_module, "WORTHWHILE", 2)
    found: list[list[float]] = []
    called = compile_as(monkeypatch, lambda out: out)
    for asked, folder in ((False, "eager"), (True, "compiled")):
        written = samples(40, every=2).model_dump(mode="json")
        written["train"]["compile"] = asked
        events: list[dict[str, Any]] = []
        train(TrialConfig.model_validate(written), tmp_path / folder, report=events.append)
        found.append([event["value"] for event in events if event["kind"] == "measurement"])
        assert ("forward" in called) == asked
    assert len(found[0]) == 2
    assert found[0] == found[1]


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.filterwarnings("error:train.compile")
def test_compiled_sampling_gives_the_samples_and_is_compiled_once() -> None:
    config = samples(100, every=2)
    compute = CompiledCompute(config.architecture.model_dump(mode="json"), ("eval",))
    data = load_data(config)
    for seed in range(2):  # another network, other weights: the same code
        torch.manual_seed(seed)
        net = build_network(config, data, "cpu")
        for p in net.parameters():
            p.data += 0.1 * torch.randn_like(p)
        ours, theirs = (
            torch.cat(list(network_samples(config, net.state_dict(), data, "cpu", using))) for using in (compute, ALONE)
        )
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
        assert compute.costs().get("compiled_graphs", 0.0) == (0.0 if seed else 1.0)


def test_weights_are_moved_back_bit_for_bit_and_graphs_of_the_step_survive() -> None:
    net = Tiny()
    out = net(*inputs()).square().sum()
    kept, place = net.weight.detach().clone(), net.weight.data_ptr()
    with _perturbed(net):
        assert not torch.equal(net.weight, kept)
    assert torch.equal(net.weight, kept)
    assert net.weight.data_ptr() == place
    (gradient,) = torch.autograd.grad(out, [net.weight])
    torch.testing.assert_close(gradient, torch.autograd.grad(net(*inputs()).square().sum(), [net.weight])[0])


# --- the archive


def made(key: str, files: dict[str, bytes], unit: str = "unit") -> CompileCache:
    cache = CompileCache(key)
    for name, content in files.items():
        (cache.folder / name).parent.mkdir(exist_ok=True)
        (cache.folder / name).write_bytes(content)
    cache.publish(unit)
    return cache


def test_what_one_publishes_the_next_finds_and_adds_to() -> None:
    first = made("key", {"a/kernel.so": b"code", "a/x.lock": b""}, "one")
    second = CompileCache("key")
    assert not second.has("one")
    second.load()
    assert second.has("one")
    assert not second.has("two")
    assert second.folder != first.folder
    assert [p.name for p in second.folder.rglob("*") if p.is_file()] == ["kernel.so"]
    (second.folder / "other.so").write_bytes(b"more")
    second.publish_more("two")
    first.load()
    assert first.has("two")
    assert (first.folder / "other.so").read_bytes() == b"more"


@pytest.mark.parametrize("damage", ["empty", "half", "flipped"])
def test_a_damaged_archive_is_removed_and_gives_nothing(damage: str) -> None:
    path = made("key", {"kernel.so": bytes(range(256)) * 8}).path
    whole = bytearray(path.read_bytes())
    whole[60] ^= 1
    path.write_bytes({"empty": b"", "half": whole[: len(whole) // 2], "flipped": bytes(whole)}[damage])
    cache = CompileCache("key")
    with pytest.warns(UserWarning, match=r"is damaged .*; it is removed and compiled again"):
        cache.load()
    assert not path.exists()
    assert not cache.has("unit")
    assert not [p for p in cache.folder.rglob("*") if p.is_file()]


def test_a_killed_process_leaves_no_lock_no_half_archive_and_in_the_end_no_folder(tmp_path: Path) -> None:
    child = os.fork()
    if child == 0:
        cache = CompileCache("key")
        with cache.alone():
            (cache.folder / "kernel.so").write_bytes(b"")  # the empty library that a killed compiler leaves
            os.kill(os.getpid(), signal.SIGKILL)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    (left,) = tmp_path.glob("ablate-compiled-*/*/kernel.so")
    cache = CompileCache("key")
    assert not left.exists()
    with cache.alone():
        cache.load()
    assert not cache.has("unit")
    assert not cache.path.exists()


def test_of_several_one_compiles_and_the_others_wait() -> None:
    first, order = CompileCache("key"), []

    def later() -> None:
        cache = CompileCache("key")
        with cache.alone():
            cache.load()
            order.append(cache.has("unit"))

    with first.alone():
        waiting = threading.Thread(target=later)
        waiting.start()
        waiting.join(timeout=0.3)
        assert waiting.is_alive()
        assert not order
        first.publish("unit")
    waiting.join()
    assert order == [True]


def test_the_folder_lives_as_long_as_the_cache_and_the_environment_is_left_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "elsewhere")
    monkeypatch.delenv("TRITON_CACHE_DIR", raising=False)
    cache = CompileCache("key")
    with cache.inside():
        assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(cache.folder)
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == "elsewhere"
    assert "TRITON_CACHE_DIR" not in os.environ
    folder = cache.folder
    assert folder.exists()
    del cache
    assert not folder.exists()


def test_code_that_does_not_run_here_is_compiled_once_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """An archive of a machine that only looks like this one."""
    compile_as(monkeypatch, lambda out: out)
    net = Tiny()
    CompiledCompute({}).network(net, "net")(*inputs())
    failed: list[int] = []

    def first_fails(out: Any) -> Any:
        failed.append(1)
        return fails(out) if len(failed) == 1 else out

    compile_as(monkeypatch, first_fails)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compiled = CompiledCompute({}).network(net, "net")
        assert torch.equal(compiled(*inputs()), net(*inputs()))
    assert len(failed) == 3  # refused, compiled, called


def test_what_an_archive_lacks_is_added_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def compiles(name: str) -> Callable[[Any], Any]:
        def wrong(out: Any) -> Any:
            Path(os.environ["TORCHINDUCTOR_CACHE_DIR"], name).write_bytes(b"code")
            return out

        return wrong

    for name in ("first.so", "second.so"):
        compile_as(monkeypatch, compiles(name))
        compute = CompiledCompute({})
        compute.network(Tiny(), "net")(*inputs())
    (cache,) = compute._caches.values()
    with zipfile.ZipFile(cache.path) as archive:
        assert {"first.so", "second.so"} < set(archive.namelist())
