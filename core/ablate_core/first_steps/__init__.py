"""How the two-step target goes from t to s. One file per solver."""

from ablate_core.component import register_modules
from ablate_core.first_steps.base import FirstStep as FirstStep

register_modules(__name__, __path__)
