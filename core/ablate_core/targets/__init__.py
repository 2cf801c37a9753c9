"""How the regression target is built: from two steps, in their limit, or not at all. One file per limit."""

from ablate_core.component import register_modules
from ablate_core.targets.base import Limit as Limit

register_modules(__name__, __path__)
