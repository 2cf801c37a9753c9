"""SiT: the diffusion transformer with two time inputs, t and t - r, and its published variations as fields.

arXiv 2401.08740 (SiT), 2212.09748 (DiT); two times as in EDAPINENUT/ExplicitShortCut arch/sit.py. The fields after
`fused_attention` are single choices of iMF (Lyy-iiis/imeanflow models/imfDiT.py), pMF (Lyy-iiis/pMF models/pmfDiT.py),
TVM (lumalabs/tvm training/dit.py), DMF (kyungmnlee/dmf models/dmft.py), SM (kvfrans/shortcut-models model.py) and IMM
(lumalabs/imm); docs/architectures.md writes these networks as rows of them.
"""

from __future__ import annotations

import re
from typing import Any, ClassVar, Literal, NamedTuple, Self

from pydantic import Field, field_validator, model_validator

from ablate_core.architectures.base import Architecture
from ablate_core.architectures.sit_network import SiTNetwork


class Size(NamedTuple):
    depth: int
    width: int
    heads: int


SIZES = {
    "tiny": Size(3, 64, 4),  # ours: 8x8 images on one CPU core
    "S": Size(12, 384, 6),
    "B": Size(12, 768, 12),
    "M": Size(16, 1024, 16),
    "L": Size(24, 1024, 16),
    "XL": Size(28, 1152, 16),
}


def _later(default: Any, description: str, *, gt: int | None = None, ge: int | None = None) -> Any:
    """A field that came later: at its default the network is what it was before the field existed."""
    return Field(default, gt=gt, ge=ge, description=description, json_schema_extra={"neutral": default})


class SiT(Architecture):
    """Transformer on patches; each block is modulated by emb(t) + emb(t - r) + emb(y) (adaLN-zero).

    The output is exactly 0 at initialisation. Width, depth and heads come from `size` unless they are given.
    """

    name: Literal["sit"] = "sit"
    size: str = Field("B/2", description="tiny, S, B, M, L or XL, a slash, and the patch edge in pixels")
    depth: int | None = Field(None, gt=0, description="number of blocks; null: that of `size`")
    width: int | None = Field(None, gt=0, description="channels of a token; null: that of `size`")
    heads: int | None = Field(None, gt=0, description="attention heads; null: those of `size`")
    mlp_ratio: float = Field(4.0, gt=0, description="hidden width of a block's MLP over its width")
    time_scale: Literal[1, 1000] = Field(1, description="times are multiplied by this before the sinusoid")
    fused_attention: bool = Field(True, description="fused attention wherever no forward-mode derivative is taken")
    norm: Literal["layer", "rms"] = _later("layer", "LayerNorm, or RMSNorm (TVM, iMF)")
    norm_affine: bool = _later(False, "norms have a learned scale, and LayerNorm an offset (iMF: true)")
    qk_norm: bool = _later(False, "RMSNorm with a learned scale on the queries and keys of each head (TVM, iMF)")
    modulation_norm: bool = _later(False, "RMSNorm without affine on each factor of adaLN (TVM)")
    position: Literal["sincos", "learned", "none"] = _later(
        "sincos", "added to the tokens: a fixed 2-D sinusoid, a table N(0, 0.02^2) (pMF), or nothing (iMF)"
    )
    rope: Literal["none", "1d", "2d"] = _later(
        "none", "queries and keys are turned by their place in the sequence (iMF), or in the image (pMF)"
    )
    mlp: Literal["gelu", "swiglu"] = _later(
        "gelu", "swiglu has no biases and 2/3 of the hidden width, so as many weights: 8/3 of the width (iMF)"
    )
    attention_bias: bool = _later(True, "biases of the attention's two linear layers (iMF, pMF: false)")
    time_inputs: Literal["t_gap", "t_r", "t", "gap", "t_log2_gap"] = _later(
        "t_gap",
        "what is embedded and added: t and t - r; t and r (IMM); t (one landing time: CT, sCT); t - r (iMF); t and the "
        "number of halvings log2(1 / (t - r)), at most 7 (SM)",
    )
    conditioning: Literal["adaln_zero", "in_context", "decoupled"] = _later(
        "adaln_zero",
        "the condition modulates all blocks; it is prepended as tokens (iMF); it modulates, the first blocks by t and "
        "the others by r, with one embedding (DMF)",
    )
    decoupled_blocks: int | None = _later(None, "blocks that see t; null: 20 of 28 in proportion (DMF, XL/2)", gt=0)
    class_tokens: int = _later(8, "tokens of the class; in_context", gt=0)
    time_tokens: int = _later(4, "tokens of the times; in_context", gt=0)
    guidance_tokens: int = _later(4, "tokens of the first guidance input, the scale; in_context", gt=0)
    window_tokens: int = _later(2, "tokens of every other guidance input; in_context", gt=0)
    velocity_head_blocks: int | None = _later(
        None, "blocks of its own that a velocity head has; null: 8 (iMF), at most two thirds of the depth", ge=0
    )
    patch_bottleneck: int | None = _later(None, "channels that patches are squeezed through (pMF: 128 or 256)", gt=0)
    init: Literal["xavier", "imf", "spectral"] = _later(
        "xavier",
        "xavier uniform, N(0, 0.02^2) for times and labels; N(0, 0.32^2 / fan_in), N(0, 1 / fan_in) for embeddings "
        "(iMF); xavier normal over its largest singular value (TVM). What starts at zero does in all",
    )

    jvp_safe: ClassVar[bool] = True
    accepts_log_variance: ClassVar[bool] = True
    accepts_velocity_head: ClassVar[bool] = True
    accepts_guidance: ClassVar[bool] = True
    stackable: ClassVar[bool] = True

    @field_validator("size")
    @classmethod
    def _known_size(cls, size: str) -> str:
        match = re.fullmatch(r"(\w+)/([1-9]\d*)", size)
        if match is None or match[1] not in SIZES:
            raise ValueError(f"a SiT size is one of {', '.join(SIZES)}, a slash and the patch, as in B/2; got {size!r}")
        return size

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        decoupled, in_context = self.conditioning == "decoupled", self.conditioning == "in_context"
        depth, width, heads = self.resolved_size
        if self.position == "none" and self.rope == "none":
            raise ValueError("position: none leaves patches without a place; set rope: 1d or 2d")
        if width // heads % {"none": 1, "1d": 2, "2d": 4}[self.rope]:
            raise ValueError(f"rope: {self.rope} turns channels of a head in pairs, not {width // heads}; change heads")
        if decoupled and self.time_inputs != "t_gap":
            raise ValueError("conditioning: decoupled says itself which block sees which time; leave out time_inputs")
        if self.decoupled_blocks is not None and not (decoupled and self.decoupled_blocks < depth):
            raise ValueError(f"decoupled_blocks is for conditioning: decoupled, and less than the depth {depth}")
        if in_context and self.modulation_norm:
            raise ValueError("modulation_norm is for adaLN, which conditioning: in_context has not; leave it out")
        counts = ("class_tokens", "time_tokens", "guidance_tokens", "window_tokens")
        given = [name for name in counts if getattr(self, name) != type(self).model_fields[name].default]
        if given and not in_context:
            raise ValueError(f"{given[0]} is for conditioning: in_context; leave it out")
        if self.own_velocity_blocks > depth:
            raise ValueError(f"velocity_head_blocks is at most the depth, {depth}")
        return self

    @property
    def patch(self) -> int:
        return int(self.size.split("/")[1])

    @property
    def resolved_size(self) -> Size:
        """Depth, width and heads after the explicit fields."""
        default = SIZES[self.size.split("/")[0]]
        return Size(self.depth or default.depth, self.width or default.width, self.heads or default.heads)

    @property
    def hidden_width(self) -> int:
        """Hidden width of a block's MLP."""
        width = self.resolved_size.width
        return int(2 * width * self.mlp_ratio / 3) if self.mlp == "swiglu" else int(width * self.mlp_ratio)

    @property
    def early_blocks(self) -> int:
        """Blocks that see the start time, from the first: all of them, unless the conditioning is decoupled."""
        depth = self.resolved_size.depth
        if self.conditioning != "decoupled":
            return depth
        return self.decoupled_blocks or round(depth * 20 / 28)

    @property
    def own_velocity_blocks(self) -> int:
        """Blocks that a velocity head does not share."""
        depth = self.resolved_size.depth
        return min(8, depth * 2 // 3) if self.velocity_head_blocks is None else self.velocity_head_blocks

    @property
    def sees_landing_time(self) -> bool:
        return self.conditioning == "decoupled" or self.time_inputs != "t"

    def build(
        self,
        shape: tuple[int, ...],
        num_classes: int,
        *,
        log_variance: bool = False,
        velocity_head: bool = False,
        guidance_inputs: int = 0,
    ) -> SiTNetwork:
        """Raises ValueError where the shape does not fit the patch or the width does not fit the heads."""
        _, width, heads = self.resolved_size
        if len(shape) != 3 or shape[1] % self.patch or shape[2] % self.patch:
            raise ValueError(f"sit needs images (C, H, W) with sides divisible by its patch {self.patch}, got {shape}")
        if width % heads or width % 4:
            raise ValueError(f"the width of a sit is divisible by 4 and by its heads, got width {width}, heads {heads}")
        image = (shape[0], shape[1], shape[2])
        return SiTNetwork(self, image, num_classes, log_variance, velocity_head, guidance_inputs)
