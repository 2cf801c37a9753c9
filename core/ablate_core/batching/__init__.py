"""Which samples share a batch. One file per rule."""

from ablate_core.batching.base import Batching as Batching
from ablate_core.component import register_modules

register_modules(__name__, __path__)
