"""`ablate`: which component choice of a one-step diffusion model matters. Importing it costs nothing.

In a notebook, ``ablate.open("runs")`` reads a store: see docs/notebook.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from ablate.notebook import Store

__version__ = "0.1.0"


def open(root: str | Path | None = None) -> Store:
    """The store in `root` (default: ABLATE_HOME, else ``runs``), for a notebook; also while a run is going on.

    Raises:
        NotHereError: there is no store.
    """
    from ablate.notebook import open_store

    return open_store(root)
