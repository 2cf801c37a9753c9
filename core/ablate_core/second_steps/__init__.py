"""How the two-step target goes from s to r. One file per solver."""

from ablate_core.component import register_modules
from ablate_core.second_steps.base import SecondStep as SecondStep

register_modules(__name__, __path__)
