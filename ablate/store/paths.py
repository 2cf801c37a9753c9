"""`StorePaths`: the one place that knows where a file of a store lies. Nobody else joins path names."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from ablate.errors import StoreError

ENVIRONMENT_VARIABLE = "ABLATE_HOME"
DEFAULT_ROOT = "runs"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")


@dataclass(frozen=True, init=False)
class StorePaths:
    """Every file and folder of the store in `root`; making one touches no disk.

    ::

        root/journal/<host>-<pid>-<ns>.jsonl    the truth: what each process wrote
             trials/<key[:2]>/<key>/            checkpoint, samples and log of one trial
             studies/<name>/                    reports of one study
             artifacts/                         files that belong to no single trial
             index.lock                         held by the one ingesting process
             ablate.duckdb                      index, safe to delete
             snapshot.duckdb                    published copy of the index, for readers
    """

    root: Path

    def __init__(self, root: str | Path | None = None) -> None:
        """`root`, else the environment variable ABLATE_HOME, else ``runs`` in the working folder; made absolute."""
        chosen = root if root is not None else os.environ.get(ENVIRONMENT_VARIABLE) or DEFAULT_ROOT
        object.__setattr__(self, "root", Path(os.path.abspath(os.path.expanduser(chosen))))

    @property
    def journal(self) -> Path:
        return self.root / "journal"

    def journals(self) -> list[Path]:
        """The journal files there are, in name order.

        Raises:
            StoreError: the folder may not be read; that is not the same as an empty one.
        """
        try:
            names = os.listdir(self.journal)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise StoreError(f"{self.journal}: the journals cannot be read ({error.strerror})") from error
        return [self.journal / name for name in sorted(names) if name.endswith(".jsonl")]

    def empty(self) -> bool:
        """Whether there is nothing to read."""
        return not self.journals() and not self.snapshot.exists()

    @property
    def index(self) -> Path:
        return self.root / "ablate.duckdb"

    @property
    def snapshot(self) -> Path:
        return self.root / "snapshot.duckdb"

    @property
    def lock(self) -> Path:
        return self.root / "index.lock"

    @property
    def artifacts(self) -> Path:
        return self.root / "artifacts"

    @property
    def trials(self) -> Path:
        return self.root / "trials"

    def trial(self, key: str) -> Path:
        """The folder of one trial, the `folder` that the trainer is given."""
        return self.trials / _name(key, "trial key")[:2] / key

    def checkpoint(self, key: str) -> Path:
        """Where the trainer keeps the trial's newest checkpoint."""
        return self.trial(key) / "checkpoint.pt"

    def log(self, key: str) -> Path:
        """What the attempts of the trial printed, one after the other."""
        return self.trial(key) / "log.txt"

    @property
    def studies(self) -> Path:
        return self.root / "studies"

    def study(self, name: str) -> Path:
        return self.studies / _name(name, "study name")

    def report(self, study: str, suffix: str = "html") -> Path:
        """The report of a study: ``html``, ``md``, ``tex``, ``json``, ``csv``."""
        return self.study(study) / f"report.{suffix}"

    def relative(self, path: str | Path) -> str:
        """`path` as it is kept in the journals: relative to the root when it lies inside, so that a store can move."""
        path = Path(path)
        absolute = Path(os.path.abspath(path))
        return absolute.relative_to(self.root).as_posix() if absolute.is_relative_to(self.root) else str(absolute)

    def absolute(self, kept: str) -> Path:
        """The file that `relative` named."""
        return self.root / kept

    def make(self) -> StorePaths:
        """Create the folders that must exist before anything is written.

        Raises:
            StoreError: the root cannot be created or is not a folder.
        """
        try:
            self.journal.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(
                f"{self.root}: cannot make the store there ({error.strerror}); choose another folder with --store "
                f"or {ENVIRONMENT_VARIABLE}"
            ) from error
        return self


def _name(name: str, what: str) -> str:
    """A name that is used as a folder: no separators, not hidden, so it cannot leave the store."""
    if not _NAME.fullmatch(name):
        raise StoreError(f"{name!r} is no {what}: letters, digits and . _ + - only, beginning with a letter or digit")
    return name
