"""Classifier-free guidance inside training. One file per rule."""

from ablate_core.component import register_modules
from ablate_core.guidance.base import Guidance as Guidance

register_modules(__name__, __path__)
