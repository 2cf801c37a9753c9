"""What multiplies the per-sample loss. One file per weighting."""

from ablate_core.component import register_modules
from ablate_core.weightings.base import Weighting as Weighting

register_modules(__name__, __path__)
