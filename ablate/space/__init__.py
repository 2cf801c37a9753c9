"""The design space: a YAML file, its expansion into a plan of arms and trials, and their content keys.

space = load_space("spaces/objectives.yaml")
plan = expand(space, fidelity="smoke")
for trial in plan.trials: ...
"""

from ablate.space.estimate import estimate
from ablate.space.expand import expand
from ablate.space.fair import arm_diff
from ablate.space.json_schema import space_json_schema
from ablate.space.keys import TRAINING_SEMANTICS, arm_id, eval_key, study_arm_id, train_key
from ablate.space.loader import builtin_folder, builtin_names, find_space, load_space, space_from_text
from ablate.space.plan import Arm, Equivalent, Evaluation, Membership, Metric, Plan, Skip, Trial
from ablate.space.plugins import load_plugins
from ablate.space.schema import Space

__all__ = [
    "TRAINING_SEMANTICS",
    "Arm",
    "Equivalent",
    "Evaluation",
    "Membership",
    "Metric",
    "Plan",
    "Skip",
    "Space",
    "Trial",
    "arm_diff",
    "arm_id",
    "builtin_folder",
    "builtin_names",
    "estimate",
    "eval_key",
    "expand",
    "find_space",
    "load_plugins",
    "load_space",
    "space_from_text",
    "space_json_schema",
    "study_arm_id",
    "train_key",
]
