"""How the tangent of a continuous target is warmed up and normalised. One file per rule."""

from ablate_core.component import register_modules
from ablate_core.tangents.base import Tangent as Tangent

register_modules(__name__, __path__)
