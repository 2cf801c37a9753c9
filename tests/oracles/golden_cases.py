"""The fixed tiny network and the recorded random numbers of tests/golden, for the parity tests."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ablate_core.architectures.base import Network
from ablate_core.objective import Batch
from ablate_core.random import Draws

GOLDEN = Path(__file__).parents[1] / "golden"
PARAMETERS = ("W1", "w_t", "w_r", "b1", "E", "W2", "b2", "a", "b")


class GoldenNetwork(Network):
    """h = tanh(W1 vec(x) + w_t t + w_r r + b1 + E[y]); F = W2 h + b2; log-variance a t + b. All float64.

    Ours, where the weights hold them: G g inside the tanh for guidance inputs, V2 h for a velocity head.
    """

    def __init__(self, weights: dict[str, Tensor]) -> None:
        super().__init__()
        for name, weight in weights.items():
            self.register_parameter(name, nn.Parameter(weight.clone()))

    def _hidden(self, x: Tensor, r: Tensor, t: Tensor, y: Tensor | None, g: Tensor | None) -> Tensor:
        h = x.flatten(1) @ self.W1.T + t[:, None] * self.w_t + r[:, None] * self.w_r + self.b1
        if y is not None:
            h = h + self.E[y]
        return torch.tanh(h if g is None else h + g @ self.G.T)

    def forward(self, x: Tensor, r: Tensor, t: Tensor, y: Tensor | None, g: Tensor | None = None) -> Tensor:
        return (self._hidden(x, r, t, y, g) @ self.W2.T + self.b2).reshape(x.shape)

    def forward_heads(
        self, x: Tensor, r: Tensor, t: Tensor, y: Tensor | None, g: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        h = self._hidden(x, r, t, y, g)
        return (h @ self.W2.T + self.b2).reshape(x.shape), (h @ self.V2.T).reshape(x.shape)

    def log_variance(self, t: Tensor) -> Tensor:
        return self.a * t + self.b


class TimeInRadians(GoldenNetwork):
    """The golden network told pi t / 2 and pi r / 2: the TrigFlow convention, V per radian."""

    def forward(self, x: Tensor, r: Tensor, t: Tensor, y: Tensor | None, g: Tensor | None = None) -> Tensor:
        return super().forward(x, torch.pi / 2 * r, torch.pi / 2 * t, y) * (torch.pi / 2)

    def log_variance(self, t: Tensor) -> Tensor:
        return super().log_variance(torch.pi / 2 * t)


class Recorded(Draws):
    """Random numbers of a reference run, by the name our code draws them under."""

    def __init__(self, **numbers: Any) -> None:
        super().__init__(0, 0, dtype=torch.float64)
        self.numbers = {name.replace("__", "."): torch.as_tensor(value) for name, value in numbers.items()}

    def _take(self, name: str, shape: tuple[int, ...]) -> Tensor:
        number = self.numbers[name]
        assert number.shape == shape, f"{name} was recorded with shape {tuple(number.shape)}, drawn with {shape}"
        return number

    def normal(self, name: str, *shape: int) -> Tensor:
        return self._take(name, shape)

    def uniform(self, name: str, *shape: int) -> Tensor:
        return self._take(name, shape)

    def integers(self, name: str, high: int, *shape: int) -> Tensor:
        number = self._take(name, shape)
        assert 0 <= int(number.min())
        assert int(number.max()) < high
        return number


def random_network(
    shape: tuple[int, ...],
    seed: int = 0,
    *,
    dtype: torch.dtype = torch.float64,
    guidance_inputs: int = 0,
    heads: int = 1,
) -> GoldenNetwork:
    """The golden network for states of `shape`, with random weights (zero weights would hide most faults)."""
    size, g = int(np.prod(shape)), torch.Generator().manual_seed(seed)
    shapes = {"W1": (6, size), "E": (6, 6), "W2": (size, 6), "b2": (size,), "a": (), "b": ()}
    shapes |= dict.fromkeys(("w_t", "w_r", "b1"), (6,))
    weights = {name: 0.5 * torch.randn(shapes[name], generator=g, dtype=torch.float64) for name in PARAMETERS}
    if guidance_inputs:
        weights["G"] = 0.5 * torch.randn(6, guidance_inputs, generator=g, dtype=torch.float64)
    if heads > 1:
        weights["V2"] = 0.5 * torch.randn(size, 6, generator=g, dtype=torch.float64)
    return GoldenNetwork({name: weight.to(dtype) for name, weight in weights.items()})


@cache
def arrays(group: str) -> dict[str, np.ndarray]:
    with np.load(GOLDEN / f"{group}.npz") as data:
        return dict(data)


class Case:
    """One recorded case: its settings as attributes of `config`, its arrays by name."""

    def __init__(self, record: dict[str, Any]) -> None:
        self.id: str = record["id"]
        self.group: str = record["group"]
        self.kind: str = record["kind"]
        self.config: dict[str, Any] = record["config"]

    def __repr__(self) -> str:
        return self.id

    def __getitem__(self, name: str) -> Tensor:
        """The array `name`, its corrected twin where the reference has a defect."""
        stored = arrays(self.group)
        fixed = f"{self.id}/corrected.{name}"
        return torch.from_numpy(stored[fixed if fixed in stored else f"{self.id}/{name}"])

    def __contains__(self, name: str) -> bool:
        return f"{self.id}/{name}" in arrays(self.group)

    def plain(self, name: str) -> Tensor:
        """The array as the reference gave it."""
        return torch.from_numpy(arrays(self.group)[f"{self.id}/{name}"])

    def network(self, role: str = "student", kind: type[GoldenNetwork] = GoldenNetwork) -> GoldenNetwork:
        weights = self.config[role].split(" ")[0]
        stored = arrays("inputs")
        return kind({name: torch.from_numpy(stored[f"{weights}/{name}"]) for name in PARAMETERS})

    def batch(self, *, labels: bool = True) -> tuple[Batch, Tensor]:
        """Data with labels of 5 classes, and standard normal noise."""
        data, stored = self.config["data"], arrays("inputs")
        rows = slice(self.config.get("rows"))
        x0 = torch.from_numpy(stored[f"{data}/images"])[rows] * self.config.get("image_scale", 1.0)
        noise = torch.from_numpy(stored[f"{data}/noise"])[rows]
        y = torch.from_numpy(stored[f"{data}/labels"])[rows]
        return (Batch(x0, y, 5) if labels else Batch(x0)), noise

    def gradients(self, prefix: str) -> dict[str, Tensor]:
        """Recorded gradients by parameter name, corrected ones where they exist."""
        stored = arrays(self.group)
        for start in (f"{self.id}/corrected.{prefix}.", f"{self.id}/{prefix}."):
            found = {k[len(start) :]: torch.from_numpy(v) for k, v in stored.items() if k.startswith(start)}
            if found:
                return found
        raise KeyError(f"{self.id} has no gradients named {prefix}")


def cases(*kinds: str, group: str | None = None) -> list[Case]:
    """The recorded cases of some kinds."""
    records = json.loads((GOLDEN / "index.json").read_text())["cases"]
    return [Case(r) for r in records if r["kind"] in kinds and (group is None or r["group"] == group)]


def case(name: str) -> Case:
    (record,) = [r for r in json.loads((GOLDEN / "index.json").read_text())["cases"] if r["id"] == name]
    return Case(record)
