"""Settings of every architecture that the contract tests run over, and what the tests of architectures share."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ablate_core.architectures import Architecture
from ablate_core.architectures.base import Network

SIT = {"name": "sit", "size": "tiny/4", "depth": 3, "width": 32, "heads": 4}
UNET = {"name": "unet", "model_channels": 8, "channel_mult": (1, 2), "blocks": 1, "attention": (4,)}
IMF = {
    "norm": "rms", "norm_affine": True, "qk_norm": True, "position": "none", "rope": "1d", "mlp": "swiglu",
    "attention_bias": False, "time_inputs": "gap", "conditioning": "in_context", "init": "imf",
}  # fmt: skip
PMF = IMF | {"position": "learned", "rope": "2d", "patch_bottleneck": 8}
TVM = {"norm": "rms", "qk_norm": True, "modulation_norm": True, "init": "spectral"}
DMF = {"conditioning": "decoupled"}

SIT_OPTIONS: dict[str, dict[str, Any]] = {
    "rms": {"norm": "rms"},
    "layer-affine": {"norm_affine": True},
    "qk_norm": {"qk_norm": True},
    "modulation_norm": {"modulation_norm": True},
    "learned": {"position": "learned"},
    "rope_1d": {"rope": "1d"},
    "rope_2d": {"position": "none", "rope": "2d"},
    "swiglu": {"mlp": "swiglu"},
    "no_bias": {"attention_bias": False},
    "t_r": {"time_inputs": "t_r"},
    "t": {"time_inputs": "t"},
    "gap": {"time_inputs": "gap"},
    "t_log2_gap": {"time_inputs": "t_log2_gap"},
    "in_context": {"conditioning": "in_context", "class_tokens": 2, "time_tokens": 1},
    "decoupled": {"conditioning": "decoupled", "decoupled_blocks": 1},
    "own_velocity_blocks": {"velocity_head_blocks": 0},
    "bottleneck": {"patch_bottleneck": 6},
    "init_imf": {"init": "imf"},
    "init_spectral": {"init": "spectral"},
    "imf": IMF,
    "pmf": PMF,
    "tvm": TVM,
    "dmf": DMF,
}
UNET_OPTIONS: dict[str, dict[str, Any]] = {
    "ncsnpp": {"embedding": "fourier", "encoder": "residual", "noise_mult": 1, "resample": (1, 1)},
    "deep": {"channel_mult": (1, 1, 2), "blocks": 2, "attention": ()},
}


def _shipped(choice: type) -> bool:
    """False for what another test has registered."""
    return choice.__module__.startswith("ablate_core.")


SMALL = {"sit": SIT, "unet": UNET}
CASES: dict[str, dict[str, Any]] = (
    {name: SMALL.get(name, {"name": name}) for name, own in sorted(Architecture.choices.items()) if _shipped(own)}
    | {f"sit-{name}": SIT | fields for name, fields in SIT_OPTIONS.items()}
    | {f"unet-{name}": UNET | fields for name, fields in UNET_OPTIONS.items()}
)


def build(choice: dict[str, Any], *, shape: tuple[int, ...] = (1, 8, 8), classes: int = 10, **more: Any) -> Network:
    """A fresh network of seed 0; `more` goes to `Architecture.build`."""
    torch.manual_seed(0)
    return Architecture.model_validate(choice).build(shape, classes, **more)


def randomised(net: Network, std: float = 0.1) -> Network:
    """A freshly initialised network has no derivative at all; most faults would pass."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in net.parameters():
            p.normal_(std=std, generator=generator)
    return net


def inputs(dtype: torch.dtype = torch.float64, n: int = 5) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """States, landing times, start times and labels of `n` rows."""
    g = torch.Generator().manual_seed(2)
    x = torch.randn(n, 1, 8, 8, generator=g, dtype=dtype)
    t = torch.rand(n, generator=g, dtype=dtype)
    return x, t * torch.rand(n, generator=g, dtype=dtype), t, torch.arange(n) % 11


def directions(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Tangents of state, landing time and start time."""
    g = torch.Generator().manual_seed(3)
    return tuple(torch.randn(like.shape, generator=g, dtype=like.dtype) for like in (x, t, t))  # type: ignore[return-value]
