"""The program as a process: what it prints to, how it is interrupted, what its reader does, how it ends."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from ablate.errors import ExitCode

SPACE = """
name: toy
question: Does η matter — at all?
base:
  objective: fm
  architecture: {name: mlp, width: 16, depth: 1}
  data: {name: gaussians, size: 500}
  train: {steps: 20, batch_size: 16, lr: 1e-3}
  eval: {metric: energy_distance, samples: 60, gallery: 0}
axes: {objective: [fm, meanflow]}
"""
PROGRAM = (sys.executable, "-m", "ablate")


def test_a_terminal_without_the_letters_gets_their_codes(tmp_path: Path) -> None:
    (tmp_path / "toy.yaml").write_text(SPACE, encoding="utf-8")
    for encoding, shown in (("ascii", rb"Does \u03b7 matter \u2014 at all?"), ("utf-8", "η matter — at".encode())):
        ended = subprocess.run(
            [*PROGRAM, "plan", str(tmp_path / "toy.yaml")],
            env=os.environ | {"PYTHONIOENCODING": encoding, "ABLATE_HOME": str(tmp_path / "store")},
            capture_output=True,
        )
        assert ended.returncode == ExitCode.COMPLETE, ended.stderr
        assert shown in ended.stdout
