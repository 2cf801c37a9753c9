"""What the raw network output means. One file per parameterisation."""

from ablate_core.component import register_modules
from ablate_core.parameterizations.base import Parameterization as Parameterization

register_modules(__name__, __path__)
