"""Data sets. One file per data set."""

from ablate_core.component import register_modules
from ablate_core.datasets.base import Dataset as Dataset

register_modules(__name__, __path__)
