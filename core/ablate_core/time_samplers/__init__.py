"""The distribution of the times r <= s <= t. One file per sampler."""

from ablate_core.component import register_modules
from ablate_core.time_samplers.base import TimeSampler as TimeSampler

register_modules(__name__, __path__)
