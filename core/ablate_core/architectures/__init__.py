"""Networks F(x, r, t, y). One file per architecture."""

from ablate_core.architectures.base import Architecture as Architecture
from ablate_core.component import register_modules

register_modules(__name__, __path__)
