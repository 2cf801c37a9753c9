"""Files that are not there are found before Ray is started and before anything is recorded."""

from __future__ import annotations

from pathlib import Path

import pytest

from ablate.errors import AblateError
from ablate.launch import RunOptions, run_plan
from ablate.space import expand, space_from_text
from ablate.store import StorePaths

SPACE = """
name: toy
base:
  objective: {objective}
  architecture: {{name: mlp, width: 16, depth: 1}}
  data: {data}
  train: {{steps: 2, batch_size: 16, lr: 1e-3}}
  eval: {{metric: {metric}, samples: 50}}
axes: {{train.lr: [1e-3, 1e-2]}}
"""
POINTS = {"data": "{name: gaussians, size: 500}", "metric": "energy_distance"}
IMAGES = {"data": "digits", "metric": "fd_digits"}


@pytest.mark.parametrize(
    ("objective", "more", "message"),
    [
        (
            "{name: splitmeanflow, target_network: {name: frozen, checkpoint: /no/such.pt}}",
            POINTS,
            r"objective\.target_network\.checkpoint: there is no file '/no/such\.pt'",
        ),
        (
            "{name: ct, metric: lpips}",
            IMAGES,
            r"objective\.metric\.weights: no file is named; give the path of",
        ),
        ("fm", {"data": "{name: image_folder, path: /no/such}", "metric": "fid"}, "/no/such"),
    ],
    ids=["teacher", "perceptual", "data"],
)
def test_a_missing_file_ends_a_run_before_it_begins(
    objective: str, more: dict[str, str], message: str, tmp_path: Path
) -> None:
    plan = expand(space_from_text(SPACE.format(objective=objective, **more), name="toy"))
    with pytest.raises(AblateError, match=message) as error:
        run_plan(plan, StorePaths(tmp_path / "store"), RunOptions(gpus=0))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "store").exists()
