"""Flow paths: alpha(t), sigma(t) and their derivatives. One file per schedule."""

from ablate_core.component import register_modules
from ablate_core.schedules.base import Schedule as Schedule

register_modules(__name__, __path__)
