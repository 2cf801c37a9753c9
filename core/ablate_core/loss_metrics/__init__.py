"""The distance between prediction and target. One file per metric."""

from ablate_core.component import register_modules
from ablate_core.loss_metrics.base import LossMetric as LossMetric

register_modules(__name__, __path__)
