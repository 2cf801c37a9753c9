"""The velocity estimate used in targets and tangents. One file per estimate."""

from ablate_core.component import register_modules
from ablate_core.velocities.base import Velocity as Velocity

register_modules(__name__, __path__)
