"""Scoring trained networks against another reference from the statistics they left: no sampling, no network, no Ray."""

from __future__ import annotations

import re
import time
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ablate.errors import AblateError
from ablate.launch.attempt import TrialBusyError, trial_lock
from ablate.launch.evaluate import Network, chosen_networks
from ablate.store.journal import Journal
from ablate.store.record import AttemptRecord
from ablate_core.fid import MetricError
from ablate_core.fid.metrics import rescore
from ablate_core.fid.reference import Reference, reference_from_npz
from ablate_core.identity import content_id

if TYPE_CHECKING:
    from ablate.store.paths import StorePaths

FILE = re.compile(r"statistics-(?P<metric>[0-9a-f]+)-(?P<cond>[0-9a-f]+)(-seed(?P<draw>\d+))?(-(?P<step>\d{8,}))?\.npz")


@dataclass
class Rescored:
    """What a call of `ablate eval --rescore` comes to.

    Attributes:
        rows: one mapping a number: trial, arm, seed, step, draw, metric, metric_id, was (the metric_id it was scored
            under), value, before (its value there), new (False: the store had it).
        refused: what could not be scored, one line each.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)


def rescore_networks(paths: StorePaths, names: Sequence[str], reference: str) -> Rescored:
    """Score every kept statistics file of the trials that `names` mean against `reference`, and journal the numbers.

    The number's identity is the old metric's with another reference, as `eval.reference` would give it. What the store
    has under that identity is not scored again.

    Args:
        paths: the store.
        names: studies, or beginnings of trial keys; none: the only study there is.
        reference: npz with mu and sigma.

    Raises:
        NotHereError: a name is neither a study nor a trial.
        AblateError: the reference cannot be read.
    """
    from ablate.store.read import definitions, values

    known, there, found = definitions(paths), values(paths), Rescored()
    references: dict[int, Reference] = {}
    with ExitStack() as stack:
        journal = stack.enter_context(Journal(paths, "attempt"))
        for network in chosen_networks(paths, names):
            files = list(_files(paths.trial(network.key)))
            here = f"{network.arms[0][0]} seed {network.seed} (trial {network.key})"
            if not files:
                found.refused.append(f"{here}: no statistics are left in {paths.trial(network.key)}; measure it again")
                continue
            events = []
            for file, name in files:
                metric, cond = known.get(name["metric"]), known.get(name["cond"])
                if metric is None or cond is None:
                    found.refused.append(f"{here}: {file.name} belongs to no measurement of this store")
                    continue
                try:
                    arrays = _read(file)
                    dims = int(arrays["features"].shape[1] if "features" in arrays else len(arrays["mu"]))
                    against = references.get(dims) or references.setdefault(dims, _reference(reference, dims))
                    began = time.perf_counter()
                    event = _event(arrays, name, metric, cond, against, there, network)
                    key = (network.key, event["metric_id"], event["cond_id"], event["step"], event["draw"])
                    if new := there.get(key) is None:
                        event["value"] = rescore(arrays, against.moments)
                        event["extra"] = {"rescored_from": file.name}
                        event["wall_seconds"] = time.perf_counter() - began
                        events.append(event)
                    value = event["value"] if new else there[key]
                except MetricError as error:
                    found.refused.append(f"{here}: {file.name}: {error}")
                    continue
                before = there.get((network.key, name["metric"], event["cond_id"], event["step"], event["draw"]))
                found.rows.append(
                    {
                        "trial": network.key, "arm": network.arms[0][0], "seed": network.seed, "step": event["step"],
                        "draw": event["draw"], "metric": metric["name"], "metric_id": event["metric_id"],
                        "was": name["metric"], "value": value, "before": before, "new": new,
                    }
                )  # fmt: skip
            if events:
                _record(journal, paths, network, events, found)
    return found


def _reference(path: str, dims: int) -> Reference:
    try:
        return reference_from_npz(path, dims, "--reference")
    except MetricError as error:
        raise AblateError(str(error)) from None


def _files(folder: Path) -> Iterator[tuple[Path, dict[str, str]]]:
    for file in sorted(folder.glob("statistics-*.npz")):
        if match := FILE.fullmatch(file.name):
            yield file, match.groupdict()


def _read(file: Path) -> dict[str, Any]:
    import numpy as np

    try:
        with np.load(file, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
    except (OSError, EOFError, ValueError, zipfile.BadZipFile) as error:
        raise MetricError(f"cannot be read ({error}); measure the trial again") from None
    if "features" not in arrays and not {"mu", "sigma_upper", "count"} <= arrays.keys():
        raise MetricError(f"holds {', '.join(arrays) or 'nothing'}, and no statistics; measure the trial again")
    return arrays


def _event(
    arrays: dict[str, Any],
    name: dict[str, str],
    metric: dict[str, Any],
    cond: dict[str, Any],
    reference: Reference,
    there: dict[tuple[str, str, str, int, int], float],
    network: Network,
) -> dict[str, Any]:
    """The measurement, but for its value."""
    draw = int(name["draw"] or 0)
    mine = [s for (t, m, c, s, d) in there if (t, m, c, d) == (network.key, name["metric"], name["cond"], draw)]
    if "step" in arrays:
        step = int(arrays["step"])
    elif mine:  # files of earlier versions are of the newest step, and do not say which
        step = max(mine)
    else:
        raise MetricError("belongs to no measurement of this store")
    definition = {**metric, "reference": reference.definition}
    return {
        "kind": "measurement", "metric_id": content_id(definition), "metric": definition, "cond_id": name["cond"],
        "condition": cond, "step": step, "draw": draw, "n_samples": definition["samples"], "sample_seed": draw,
    }  # fmt: skip


def _record(
    journal: Journal, paths: StorePaths, network: Network, events: list[dict[str, Any]], found: Rescored
) -> None:
    try:
        with trial_lock(paths.trial(network.key), shared=True):
            record = AttemptRecord(journal, network.key, task="eval")
            for event in events:
                record.report(event)
            record.end("done", step=max(event["step"] for event in events))
    except TrialBusyError as error:
        found.refused.append(str(error))


def require_alone(reference: str | None, settings: Sequence[str]) -> str:
    """The reference of ``--rescore``.

    Raises:
        AblateError: there is none, or samples of another kind are asked for beside it.
    """
    if reference is None:
        raise AblateError("--rescore: against what? give --reference FILE.npz with mu and sigma")
    if settings:
        raise AblateError(f"--set {settings[0]}: --rescore draws no samples; leave --set or --rescore out")
    return reference
