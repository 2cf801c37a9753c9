"""Which evaluations of trained networks `ablate eval` asks for. No Ray here.

A network is measured as its study's arms are, with some fields under ``eval`` changed: every combination of the values
given. What the store has is not asked for again unless somebody says so, and nothing is ever trained.
"""

from __future__ import annotations

import copy
import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from ablate.errors import AblateError, NotHereError
from ablate.launch.agenda import task
from ablate.launch.attempt import Task
from ablate.space.describe import model_fields_at, problems_of, unknown_part
from ablate.space.keys import eval_key, how_measured, train_key
from ablate.space.problems import Mark
from ablate.space.source import parse_value
from ablate.space.written import Written
from ablate_core.checkpoint import CURRENT, PREVIOUS
from ablate_core.config import IDENTITY, EvalConfig, TrialConfig
from ablate_core.identity import canonical_json
from ablate_core.legality import check

if TYPE_CHECKING:
    from ablate.store.paths import StorePaths

SET = "--set"
Change = tuple[tuple[str, Any], ...]
"""(path under ``eval``, value), one for each ``--set``."""


@dataclass(frozen=True)
class Network:
    """A trial of the store, of what was `trained`; `arms` are the ways it is measured in: (label, resolved config)."""

    key: str
    trained: str
    seed: int
    status: str
    arms: tuple[tuple[str, dict[str, Any]], ...]


@dataclass
class Asked:
    """What a call of `ablate eval` comes to.

    Attributes:
        name: the studies and trials it is about.
        tasks: evaluations to make.
        skipped: key of the trial of each evaluation that the store has.
        refused: what is asked for and cannot be made, one line each.
        lost: how many of those are networks that were trained and are gone.
    """

    name: str
    tasks: list[Task] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    lost: int = 0


def asked(paths: StorePaths, names: Sequence[str], settings: Sequence[str], again: bool = False) -> Asked:
    """The evaluations asked for.

    Args:
        paths: the store.
        names: studies, or beginnings of trial keys; none: the only study there is.
        settings: ``eval.nfe=1,2,4`` and so on; several of them are combined.
        again: also what the store has: its numbers may mean something else than those of today.

    Raises:
        NotHereError: a name is neither a study nor a trial.
        AblateError: a setting names no field under ``eval``, or has a value that none can have.
    """
    from ablate.store.read import measured

    changes, names = list(combinations(settings)), chosen_names(paths, names)
    found = Asked(", ".join(names))
    known, seen, told = measured(paths), set[tuple[str, str]](), set[tuple[str, str, str]]()
    there = list(networks(paths, names))
    for network, change in itertools.product(there[:1], changes):
        changed(network.arms[0][1], change)  # a value that no network could have is a mistake, whatever there is
    for network in there:
        folder, here = paths.trial(network.key), f"{network.arms[0][0]} seed {network.seed} (trial {network.key})"
        if network.status != "done":
            found.refused.append(f"{here}: not evaluated, its training is {network.status}")
            continue
        if not any((folder / name).is_file() for name in (CURRENT, PREVIOUS)):
            found.refused.append(f"{here}: not evaluated, no checkpoint is left in {folder}; restore it")
            found.lost += 1
            continue
        for (label, config), change in itertools.product(network.arms, changes):
            made = changed({**config, "seed": network.seed}, change)
            called = " ".join([label, *(f"{path}={_shown(value)}" for path, value in change)])
            if train_key(made) != network.key:
                found.refused.append(f"{here}: not evaluated, its config means another trial to this version of ablate")
                found.lost += 1
                break
            if reason := next((str(p) for p in check(made) if p.level == "error"), None):
                if (about := (network.trained, repr(change), reason)) not in told:  # once, not for every seed and arm
                    told.add(about)
                    found.refused.append(f"{called}: {reason}")
                continue
            if (what := (network.key, canonical_json(how_measured(made)))) in seen:
                continue
            seen.add(what)
            if not again and (network.key, eval_key(made)) in known:
                found.skipped.append(network.key)
            else:
                found.tasks.append(task(network.key, eval_key(made), made, "eval", called))
    return found


def chosen_names(paths: StorePaths, names: Sequence[str]) -> list[str]:
    """`names`, or the only study there is. Raises NotHereError where there is not one."""
    return list(names) or [_only_study(paths)]


def chosen_networks(paths: StorePaths, names: Sequence[str]) -> list[Network]:
    """`networks` of `chosen_names`."""
    return list(networks(paths, chosen_names(paths, names)))


def networks(paths: StorePaths, names: Sequence[str]) -> Iterator[Network]:
    """The trials that `names` mean, each once and with all ways it is measured in.

    Raises:
        NotHereError: a name is neither a study nor the beginning of one trial's key.
    """
    from ablate.store.detail import trial_detail
    from ablate.store.frames import open_frames
    from ablate.store.read import studies

    known = [str(study["name"]) for study in studies(paths)]
    found: dict[str, Network] = {}
    for name in names:
        study = next((n for n in (name, Path(name).stem) if n in known), None)
        if study is not None:
            some = _of_study(open_frames(paths, study))
        else:
            try:
                detail = trial_detail(paths, name)
            except NotHereError:
                raise NotHereError(
                    f"{paths.root}: {name!r} is no study ({', '.join(known) or 'there is none'}) "
                    "and the beginning of no trial's key, or of several"
                ) from None
            some = [Network(detail["trial_id"], detail["arm_id"], detail["seed"], detail["status"],
                            ((str(detail["label"]), detail["config"]),))]  # fmt: skip
        for network in some:
            before = found.get(network.key)
            arms = (*(before.arms if before else ()), *network.arms)
            found[network.key] = replace(network, arms=arms)
    yield from found.values()


def _only_study(paths: StorePaths) -> str:
    from ablate.store.read import studies

    known = [str(study["name"]) for study in studies(paths)]
    if len(known) == 1:
        return known[0]
    have = f"there are {', '.join(known)}" if known else "it is empty: run a space first"
    raise NotHereError(f"{paths.root}: which study? {have}")


def _of_study(frames: dict[str, Any]) -> list[Network]:
    arms: dict[str, list[tuple[str, dict[str, Any]]]] = {}
    for arm in frames["arms"].to_dict("records"):
        arms.setdefault(arm["trained_id"], []).append((str(arm["label"]), json.loads(arm["config"])))
    return [
        Network(t["trial_id"], t["arm_id"], int(t["seed"]), str(t["status"]), tuple(arms[t["arm_id"]]))
        for t in frames["trials"].sort_values(["seed", "arm_id"]).to_dict("records")
    ]


def combinations(settings: Iterable[str]) -> Iterator[Change]:
    """Every combination of the values of ``path=value,value`` settings; one empty combination of none.

    Raises:
        AblateError: a setting is not of that form, or names no field under ``eval`` that says how to measure.
    """
    values: dict[str, list[Any]] = {}
    for text in settings:
        path, equals, given = text.partition("=")
        path = path.strip()
        if not equals or not given.strip():
            raise AblateError(f"{SET} {text}: write eval.FIELD=VALUE or several values, e.g. eval.nfe=1,2,4")
        if path.split(".")[0] != "eval" or "." not in path:
            raise AblateError(f"{SET} {text}: only what is under eval can change without a training")
        if reason := unknown_part(TrialConfig, tuple(path.split("."))):
            raise AblateError(f"{SET} {text}: {reason}")
        if why := _changes_nothing(path):
            raise AblateError(f"{SET} {text}: it {why}")
        if path in values:
            raise AblateError(f"{SET} {text}: {path} is set twice; write all of its values in one")
        values[path] = list(parse_value(f"[{given}]"))
    for combination in itertools.product(*values.values()):
        yield tuple(zip(values, combination, strict=True))


def _changes_nothing(path: str) -> str | None:
    """Why a field under ``eval`` cannot make another number; None where it can."""
    extra = EvalConfig.model_fields[path.split(".")[1]].json_schema_extra
    if not isinstance(extra, dict) or extra.get("no_axis") == IDENTITY["no_axis"]:
        return None
    return "changes no number" if extra.get("nuisance") else str(extra["no_axis"]) if "no_axis" in extra else None


def changed(config: dict[str, Any], change: Change) -> TrialConfig:
    """A resolved config with some of its fields under ``eval`` set.

    Raises:
        AblateError: a value is not one that its field can have.
    """
    written = Written(copy.deepcopy(config))
    for path, value in change:
        written.lay(tuple(path.split(".")), value, ())
    try:
        return TrialConfig.model_validate(written.data)
    except ValidationError as error:
        said = " ".join(f"{path}={_shown(value)}" for path, value in change)
        mark = Mark(f"{SET} {said}" if said else "the recorded config")
        problems = problems_of(
            error, lambda loc, key: mark, lambda loc: model_fields_at(TrialConfig, loc, written.data)
        )
        raise AblateError(str(problems[0])) from None


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
