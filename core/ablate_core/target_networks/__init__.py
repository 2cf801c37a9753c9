"""The weights that targets are computed with. One file per rule."""

from ablate_core.component import register_modules
from ablate_core.target_networks.base import TargetNetwork as TargetNetwork

register_modules(__name__, __path__)
