"""A store in a notebook: ``ablate.open("runs")`` gives studies, frames and reports; also while a run is going on.

Nothing here writes to the store, and nothing is kept open: each study is a picture of the moment it was asked for.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ablate.errors import NotHereError
from ablate.store import StorePaths, open_frames, studies

if TYPE_CHECKING:
    import pandas as pd

    from ablate_reports import StudyFrames
    from ablate_reports.report import Report


class Store:
    """The studies of one folder of results. Its frames and report are those of the only study there is."""

    def __init__(self, paths: StorePaths) -> None:
        self.paths = paths

    def studies(self) -> pd.DataFrame:
        """One row per study, the newest first: name, question, created_at, arms, trials, and trials by status."""
        import pandas as pd

        return pd.DataFrame(studies(self.paths))

    def study(self, name: str | None = None) -> Study:
        """A study as it is now; ask again for what has come since.

        Raises:
            NotHereError: there is no such study, or no name was given and there are several.
        """
        known = [str(s["name"]) for s in studies(self.paths)]
        if name is None and len(known) != 1:
            have = f"there are {', '.join(known)}: name one, .study({known[0]!r})" if known else "it has no study yet"
            raise NotHereError(f"{self.paths.root}: {have}")
        if name is not None and name not in known:
            have = f"there are {', '.join(known)}" if known else "it has no study yet"
            raise NotHereError(f"{self.paths.root}: no study {name!r}; {have}")
        return Study(self.paths, name or known[0])

    def arms(self) -> pd.DataFrame:
        """`Study.arms` of the only study."""
        return self.study().arms()

    def trials(self) -> pd.DataFrame:
        """`Study.trials` of the only study."""
        return self.study().trials()

    def measurements(self) -> pd.DataFrame:
        """`Study.measurements` of the only study."""
        return self.study().measurements()

    def curves(self) -> pd.DataFrame:
        """`Study.curves` of the only study."""
        return self.study().curves()

    def report(self) -> Report:
        """`Study.report` of the only study."""
        return self.study().report()

    def __repr__(self) -> str:
        return f"Store({str(self.paths.root)!r}, studies: {', '.join(str(s['name']) for s in studies(self.paths))})"

    def _repr_html_(self) -> str:
        return str(self.studies()._repr_html_())  # type: ignore[operator]


class Study:
    """One study of a store, read once."""

    def __init__(self, paths: StorePaths, name: str) -> None:
        self.name = name
        self._parts: dict[str, Any] = open_frames(paths, name)

    @cached_property
    def frames(self) -> StudyFrames:
        """What reports are made of."""
        from ablate_reports import StudyFrames

        return StudyFrames.from_mapping(self._parts)

    def arms(self) -> pd.DataFrame:
        """One row per arm: arm_id, label, whether it is the baseline, its level on every axis that varies, config."""
        from ablate_reports.choices import choices, varying

        frames = self.frames
        chosen = choices(frames)
        rows = frames.arms.set_index("arm_id").loc[frames.ordered].reset_index()
        found = rows[["arm_id", "label"]].assign(baseline=rows["arm_id"] == frames.baseline)
        for axis in varying(chosen):
            found[axis if axis not in rows else f"axis {axis}"] = [chosen[arm].get(axis) for arm in rows["arm_id"]]
        return found.join(rows.drop(columns=["arm_id", "label"]))

    def trials(self) -> pd.DataFrame:
        """One row per trial: label of what was trained, seed, status, steps, seconds; the columns of `StudyFrames`."""
        return self._labelled(self.frames.trials)

    def measurements(self) -> pd.DataFrame:
        """One row per number: label of the arm, seed, metric and its identity, condition, step, draw, value."""
        return self._labelled(self.frames.measurements)

    def curves(self) -> pd.DataFrame:
        """One row per logged point: label of what was trained, seed, step, name of the scalar, value."""
        return self._labelled(self.frames.curves)

    def report(self) -> Report:
        """The verdict, the table of arms, Plotly figures, the page."""
        from ablate_reports.report import Report

        return Report(self.frames)

    def _labelled(self, frame: pd.DataFrame) -> pd.DataFrame:
        found = frame.copy()
        found.insert(0, "label", [self.frames.label(arm) for arm in found["arm_id"]])
        trials = self.frames.trials
        found["confirm"] = found["trial_id"].isin(trials.loc[trials["confirm"], "trial_id"])
        return found

    def __repr__(self) -> str:
        return f"Study({self.name!r}, {len(self.frames.arms)} arms, {len(self.frames.trials)} trials)"

    def _repr_html_(self) -> str:
        return self.report()._repr_html_()


def open_store(root: str | Path | None = None) -> Store:
    """The store in `root`, else in ABLATE_HOME, else in ``runs``.

    Raises:
        NotHereError: there is no store.
    """
    paths = StorePaths(root)
    if not paths.journals():
        raise NotHereError(f"{paths.root}: no store there; `ablate run SPACE` makes one, or name another folder")
    return Store(paths)
