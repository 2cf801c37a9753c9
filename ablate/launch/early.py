"""What a run on this machine needs whatever its plan is, begun before the plan is made: Ray, and a process with torch.

Both are mostly imports, for which other cores have time while this one imports torch itself and expands the space.
"""

from __future__ import annotations

import atexit
import contextlib
import math
import os
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ablate.launch.cluster import Cluster, connected
from ablate.launch.forkserver import WarmProcess, begin_warm_process
from ablate.launch.options import RunOptions, elsewhere

if TYPE_CHECKING:
    from ablate.store.paths import StorePaths


class Early:
    """A warm process and a connection to Ray that are in the making.

    Attributes:
        warm: None where attempts are no processes.
    """

    def __init__(self, options: RunOptions) -> None:
        self.warm: WarmProcess | None = None
        if options.isolation == "process":
            self.warm = begin_warm_process(max(1, math.floor(options.cpus_per_trial or 1.0)))
        self._options = options
        self._cluster: Cluster | None = None
        self._error: BaseException | None = None
        self._up, self._over = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._connect, name="ray", daemon=True)
        self._thread.start()

    def _connect(self) -> None:
        """Lives as long as Ray: the kernel ends Ray's processes with the thread that started them."""
        try:
            with connected(self._options) as self._cluster:
                self._up.set()
                self._over.wait()
        except BaseException as error:
            self._error = error
        finally:
            self._up.set()

    def cluster(self) -> Cluster:
        """What Ray has, once it is up. Raises what `connected` raises."""
        self._up.wait()
        if self._cluster is None:
            assert self._error is not None
            raise self._error
        return self._cluster

    def close(self, wait: bool = True) -> None:
        """End both. Without `wait` a Ray that is up ends before this process does, one that is not with it."""
        self._over.set()
        if wait:
            self._thread.join()
        elif self._up.is_set():
            atexit.register(self._thread.join)
        if self.warm is not None:
            self.warm.close()


@contextlib.contextmanager
def begin(options: RunOptions, paths: StorePaths) -> Iterator[Early | None]:
    """Begin what any run needs, for `run_plan`; None where that would not help, or might be for nothing.

    Args:
        options: those count that say where work is done, and the cores of a trial.
        paths: the store; one that holds something may hold everything that is asked for.
    """
    if elsewhere(options) or (os.cpu_count() or 1) < 2 or next(iter(paths.journals()), None) is not None:
        yield None
        return
    begun = Early(options)
    try:
        yield begun
    except BaseException:
        begun.close(wait=False)  # a mistake in the space is told at once
        raise
    begun.close()
