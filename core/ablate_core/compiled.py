"""Networks compiled by torch.compile (`train.compile`): faster to rounding, and eager where that is not possible.

What is compiled is one method of a network for one kind of call: a `Unit`. Weights and inputs are arguments of the
compiled code and the number of rows is left open, so that seeds, learning rates, weights of a loss and schedules change
nothing, and rows that learn a jump may be another number at every step. A derivative is compiled where the network
writes it out. That by torch's forward mode is not: around compiled code it is eager without a word, and within it the
derivative of an `autograd.Function` is ignored (pytorch issue 192985).

Before a unit is used it is tried: on the inputs of its first call, with weights moved a little (a network whose output
starts at zero would agree with anything), output and gradient are compared with the eager ones.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import resource
import sys
import time
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ablate_core.architectures.base import Network
from ablate_core.compile_cache import CompileCache, machine_kind
from ablate_core.compute import ALONE, Compute
from ablate_core.config import TrialConfig
from ablate_core.flat import Flat
from ablate_core.forwarding import ForwardingNetwork
from ablate_core.identity import content_id

TRAINS, SAMPLES = ("net", "target"), "eval"
"""Roles of a trial's networks. The one that draws samples is compiled where it is called often enough."""
WORTHWHILE = 500
"""Calls of a trial's measurements together from which sampling is compiled: a unit more costs a minute or two, and
saves a few milliseconds a call on a GPU."""
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.1}
"""Largest relative difference, by the precision of the matrix products, at which a compiled unit is believed. Rounding
is far below it, and a derivative that was dropped far above."""
PERTURBATION = 0.02
"""Standard deviation of what is added to the weights while a unit is tried."""
RECOMPILATIONS = 64
"""How many variants of one method torch may keep in a process; its default is 8, and then it fails."""


def chosen(config: TrialConfig, compute: Compute) -> Compute:
    """What a trial computes with: compiled networks where it asks for them and computes alone, else `compute`."""
    if not config.train.compile or compute is not ALONE:
        return compute
    roles = (*TRAINS, SAMPLES) if sampling_calls(config) >= WORTHWHILE else TRAINS
    return CompiledCompute(config.architecture.model_dump(mode="json"), roles)


def sampling_calls(config: TrialConfig) -> int:
    """How often all measurements of a trial call its network, when it is not interrupted."""
    how, steps = config.eval, config.train.steps
    measurements = 1 + ((steps - 1) // how.every if how.every else 0)
    return measurements * math.ceil(how.samples / how.batch_size) * how.nfe


@dataclass(frozen=True)
class Unit:
    """A method of a network and the kind of call: what code is compiled for, beside the network itself."""

    method: str
    inputs: tuple[tuple[str, str, tuple[int, ...], bool], ...]
    """Name, dtype, shape of a row and whether a derivative is taken by it."""
    graph: bool
    trains: bool
    training: bool
    autocast: str | None

    @property
    def id(self) -> str:
        return content_id(asdict(self))


class CompiledCompute(Compute):
    """A trial that computes alone, with compiled networks.

    Args:
        architecture: what its networks were built from, as plain JSON types.
        roles: those of the networks that are compiled.
    """

    def __init__(self, architecture: Mapping[str, Any], roles: Collection[str] = TRAINS) -> None:
        self._architecture, self._roles = architecture, roles
        self._caches: dict[str, CompileCache] = {}
        self._verdicts: dict[tuple[str, Unit], bool] = {}
        self._warned = False
        self._costs = dict.fromkeys(("compile_seconds", "compile_cpu_seconds", "compiled_graphs"), 0.0)

    def network(self, net: Network, role: str) -> Network:
        if role not in self._roles:
            return net
        if net.drops:
            self._warn(f"{type(net).__name__} draws new dropout masks at every step")
            return net
        try:
            _prepare_process()
            device = next(net.parameters()).device
            shapes = [[name, list(p.shape), str(p.dtype)] for name, p in net.named_parameters()]
            what = {"architecture": dict(self._architecture), "parameters": shapes, "source": _source(net)}
            kind = what | machine_kind(device)
            key = content_id(kind)
            if key not in self._caches:
                self._caches[key] = CompileCache(key)
        except Exception as error:  # no compiler here, or no folder to write to
            self._warn(_line(error))
            return net
        return CompiledNetwork(net, key, self)

    def backward(self, loss: Tensor, flat: Flat | None = None) -> None:
        with self._inside():
            super().backward(loss, flat)

    def cpu_seconds(self) -> float:
        return cpu_seconds()

    def costs(self) -> dict[str, float]:
        spent = {name: value for name, value in self._costs.items() if self._costs["compiled_graphs"]}
        self._costs = dict.fromkeys(self._costs, 0.0)
        return spent

    def call(self, key: str, unit: Unit, run: Run) -> Any:
        """The result of a call, compiled where that was tried and found right."""
        if (key, unit) not in self._verdicts:
            with self._counted(self._caches[key]):
                self._verdicts[key, unit] = self._works(self._caches[key], unit, run)
        if not self._verdicts[key, unit]:
            return run.eager(**run.inputs)
        inputs = {name: _open(x) for name, x in run.inputs.items()}
        try:
            graphs = _graphs()
            with self._counted(self._caches[key]):
                out = run.compiled(**inputs)
                if _graphs() > graphs:  # torch tells calls apart that are one unit here
                    self._caches[key].publish_more(unit.id)
                return out
        except Exception as error:
            self._verdicts[key, unit] = False
            self._warn(f"{unit.method}: {_line(error)}")
            return run.eager(**run.inputs)

    def _works(self, cache: CompileCache, unit: Unit, run: Run) -> bool:
        """Try a unit: from the archive where it is in there, else compile it while all others who need it wait."""
        try:
            cache.load()
            if not cache.has(unit.id):
                with cache.alone():
                    cache.load()
                    if not cache.has(unit.id):
                        _compare(unit, run)
                        cache.publish(unit.id)
                        return True
            try:
                _compare(unit, run)
                cache.publish_more(unit.id)
            except Exception:  # code of another machine that looks like this one: once more, without it
                with cache.alone():
                    cache.forget()
                    _compare(unit, run)
                    cache.publish(unit.id)
        except Exception as error:
            self._warn(f"{unit.method}: {_line(error)}")
            return False
        return True

    @contextlib.contextmanager
    def _counted(self, cache: CompileCache) -> Iterator[None]:
        """Count what was compiled within, and the time where something was."""
        graphs, wall, cpu = _graphs(), time.perf_counter(), cpu_seconds()
        try:
            with cache.inside():
                yield
        finally:
            if _graphs() > graphs:
                self._costs["compiled_graphs"] += _graphs() - graphs
                self._costs["compile_seconds"] += time.perf_counter() - wall
                self._costs["compile_cpu_seconds"] += cpu_seconds() - cpu

    @contextlib.contextmanager
    def _inside(self) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            for cache in self._caches.values():
                stack.enter_context(cache.inside())
            yield

    def _warn(self, reason: str) -> None:
        if not self._warned:
            warnings.warn(f"train.compile: runs uncompiled where it cannot be compiled; {reason}", stacklevel=2)
        self._warned = True


@dataclass(frozen=True)
class Run:
    """One call of a network: its method, the same compiled, and the inputs that are not None."""

    net: Network
    eager: Callable[..., Any]
    compiled: Callable[..., Any]
    inputs: Mapping[str, Tensor]


class CompiledNetwork(ForwardingNetwork):
    """A network as the training loop calls it: every call that can be is made compiled."""

    def __init__(self, net: Network, key: str, compute: CompiledCompute) -> None:
        super().__init__(net)
        self._key, self._compute = key, compute
        self._methods: dict[str, Callable[..., Any]] = {}

    def log_variance(self, t: Tensor) -> Tensor:
        return self.net.log_variance(t)

    def _call(self, method: str, **given: Tensor | None) -> Any:
        if torch.is_inference_mode_enabled():  # units are tried by moving weights, which that mode forbids
            with torch.inference_mode(False), torch.no_grad():
                return self._call(method, **given)
        eager = self.net if method == "forward" else getattr(self.net, method)
        present = {name: value for name, value in given.items() if value is not None}
        absent = {"y": None} if given["y"] is None else {}
        if getattr(type(self.net), method) is getattr(Network, method):  # what that calls may be compiled
            return getattr(Network, method)(self, **present, **absent)
        if min(map(len, present.values())) < 2 or _transformed():  # one row is another graph to torch: a rare count
            return eager(**present, **absent)
        inputs = {name: x.contiguous() for name, x in present.items()}
        if inputs["r"] is inputs["t"]:
            inputs["r"] = inputs["r"].clone()  # one tensor given twice is another graph to torch
        weights = next(self.net.parameters())
        unit = Unit(
            method=method,
            inputs=tuple((name, str(x.dtype), tuple(x.shape[1:]), x.requires_grad) for name, x in inputs.items()),
            graph=torch.is_grad_enabled(),
            trains=weights.requires_grad,
            training=self.net.training,
            autocast=_autocast(weights.device.type),
        )
        if method not in self._methods:
            self._methods[method] = torch.compile(getattr(self.net, method), fullgraph=True)
        run = Run(self.net, _with(eager, absent), _with(self._methods[method], absent), inputs)
        return self._compute.call(self._key, unit, run)


def _with(function: Callable[..., Any], more: Mapping[str, Any]) -> Callable[..., Any]:
    return (lambda **inputs: function(**inputs, **more)) if more else function


def _open(x: Tensor) -> Tensor:
    """`x` (rows, *), of which compiled code must not assume the number of rows."""
    torch._dynamo.mark_dynamic(x, 0)
    return x


def _compare(unit: Unit, run: Run) -> None:
    """Compile a unit, forward and backward. Raises ValueError where it does not do what the network does."""
    inputs = {name: _open(x.detach().requires_grad_(x.requires_grad)) for name, x in run.inputs.items()}
    with _perturbed(run.net):
        eager = _outcome(run.eager, run.net, inputs)
        compiled = _outcome(run.compiled, run.net, inputs)
    precision = torch.get_autocast_dtype(inputs["x"].device.type) if unit.autocast else inputs["x"].dtype
    for theirs, ours in zip(eager, compiled, strict=True):
        if not bool((ours - theirs).norm() <= TOLERANCE[precision] * theirs.norm()):
            raise ValueError("the compiled code gives other numbers than the network")


def _outcome(function: Callable[..., Any], net: nn.Module, inputs: Mapping[str, Tensor]) -> list[Tensor]:
    """All outputs of a call and, where it has a graph, the gradient of a sum over them, each in one tensor."""
    found = function(**inputs)
    outputs = list(found) if isinstance(found, tuple) else [found]
    by = [x for x in (*net.parameters(), *inputs.values()) if x.requires_grad]
    loss = torch.stack([_weighted(x) for x in outputs if x.requires_grad]).sum() if torch.is_grad_enabled() else None
    if loss is None or not by:
        return outputs
    with torch.autocast(loss.device.type, enabled=False):
        slopes = torch.autograd.grad(loss, by, allow_unused=True)
    whole = [torch.zeros_like(x) if s is None else s for x, s in zip(by, slopes, strict=True)]
    return [*(x.detach() for x in outputs), torch.cat([s.flatten() for s in whole])]


def _weighted(x: Tensor) -> Tensor:
    """A number that depends on every entry of `x` in another way."""
    return (x.flatten() * torch.linspace(-1, 1, x.numel(), dtype=x.dtype, device=x.device)).sum()


@contextlib.contextmanager
def _perturbed(net: nn.Module) -> Iterator[None]:
    """Within, the weights of `net` have noise on them; then they are what they were, bit for bit."""
    draw = torch.Generator().manual_seed(0)
    kept = [(p, p.data) for p in net.parameters()]
    try:
        for p, value in kept:  # `data` is exchanged: graphs of this step that hold the weights notice nothing
            p.data = value + PERTURBATION * torch.randn(value.shape, generator=draw).to(value)
        yield
    finally:
        for p, value in kept:
            p.data = value


def _source(net: nn.Module) -> str:
    """A hash of the files that write the network out: what was compiled from others is of no use."""
    modules = {sys.modules[type(part).__module__] for part in net.modules()}
    named = (getattr(module, "__file__", None) for module in modules if not module.__name__.startswith("torch."))
    own = {file for file in named if file is not None}  # a notebook is no file
    files = own | {str(file) for file in Path(__file__).with_name("architectures").glob("*.py")}
    return hashlib.sha256(b"".join(Path(file).read_bytes() for file in sorted(files))).hexdigest()[:16]


def _prepare_process() -> None:
    """Compile in this process alone: workers of the compiler would outlive a fork, and a kill.

    Headers are not compiled ahead: torch keeps those in a folder of all processes, where a kill leaves half a file.
    """
    import torch._dynamo
    import torch._inductor.config

    torch._inductor.config.compile_threads = 1
    torch._inductor.config.cpp_cache_precompile_headers = False
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, RECOMPILATIONS)


def _graphs() -> int:
    """How many graphs this process has compiled or loaded."""
    from torch._dynamo.utils import counters

    return int(counters["stats"]["unique_graphs"])


def _transformed() -> bool:
    """True inside torch.func's transforms and forward mode: they do not see through compiled code."""
    return torch._C._functorch.peek_interpreter_stack() is not None or torch.autograd.forward_ad._current_level >= 0


def _autocast(device: str) -> str | None:
    return str(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else None


def _line(error: BaseException) -> str:
    """The first line of what went wrong."""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0][:200]}" if text else type(error).__name__


def cpu_seconds() -> float:
    """CPU seconds of this process and of the compilers that it started and waited for."""
    started = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + started.ru_utime + started.ru_stime
