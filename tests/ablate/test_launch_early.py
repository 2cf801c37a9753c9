"""What is begun while a plan is made: when, for how long, and what becomes of it when there is no plan."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ablate.errors import ClusterError
from ablate.launch import early as beginning
from ablate.launch import forkserver
from ablate.launch.cluster import Cluster
from ablate.launch.early import Early, begin
from ablate.launch.options import RunOptions
from ablate.store import StorePaths

ON_ACTORS = RunOptions(isolation="actor")  # no warm process: what is tested here is Ray's part


class Ray:
    """Stands for Ray: comes up when it may, and remembers the thread that started it."""

    def __init__(self) -> None:
        self.may = threading.Event()
        self.thread: threading.Thread | None = None
        self.may_end, self.down = threading.Event(), threading.Event()
        self.may_end.set()
        self.error: Exception | None = None

    @contextlib.contextmanager
    def connected(self, options: RunOptions) -> Iterator[Cluster]:
        self.thread = threading.current_thread()
        self.may.wait(10)
        if self.error is not None:
            raise self.error
        yield Cluster(({"CPU": 2.0},), True, "local")
        self.may_end.wait(2)
        self.down.set()


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> Ray:
    made = Ray()
    monkeypatch.setattr(beginning, "connected", made.connected)
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return made


def test_the_thread_that_started_ray_lives_as_long_as_ray(ray: Ray, tmp_path: Path) -> None:
    """The kernel ends Ray's processes with it."""
    with begin(ON_ACTORS, StorePaths(tmp_path)) as begun:
        assert begun is not None
        ray.may.set()
        assert begun.cluster().nodes == ({"CPU": 2.0},)
        assert ray.thread is not None
        assert ray.thread.is_alive()
        assert not ray.down.is_set()
    assert ray.down.is_set()
    assert not ray.thread.is_alive()


def test_a_ray_that_does_not_start_says_so_where_it_is_needed(ray: Ray, tmp_path: Path) -> None:
    ray.error = ClusterError("no room for Ray")
    ray.may.set()
    with begin(ON_ACTORS, StorePaths(tmp_path)) as begun:
        assert begun is not None
        with pytest.raises(ClusterError, match="no room"):
            begun.cluster()


def test_a_mistake_in_the_space_does_not_wait_for_ray(ray: Ray, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such key"), begin(ON_ACTORS, StorePaths(tmp_path)):
        raise ValueError("no such key")
    assert ray.thread is not None
    assert ray.thread.is_alive()
    ray.may.set()


def test_a_mistake_is_told_before_a_ray_that_is_up_has_ended(
    ray: Ray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends: list[Callable[[], object]] = []
    monkeypatch.setattr("atexit.register", ends.append)
    ray.may.set()
    ray.may_end.clear()
    with contextlib.suppress(ValueError), begin(ON_ACTORS, StorePaths(tmp_path)) as begun:
        assert begun is not None
        begun.cluster()
        raise ValueError("no such key")
    assert not ray.down.is_set()
    ray.may_end.set()
    (end,) = ends
    end()
    assert ray.down.is_set(), "the program ends after Ray"


def test_nothing_is_begun_for_a_store_that_may_hold_everything_nor_for_a_cluster(ray: Ray, tmp_path: Path) -> None:
    paths = StorePaths(tmp_path).make()
    with begin(RunOptions(address="head:6379"), paths) as begun:
        assert begun is None
    (paths.journal / "host-1-2.jsonl").touch()
    with begin(ON_ACTORS, paths) as begun:
        assert begun is None
    assert ray.thread is None


def test_a_warm_process_that_was_begun_is_taken_over_and_one_that_was_not_ends_at_once(
    ray: Ray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forkserver, "PRELOAD", ("json",))
    monkeypatch.setattr(forkserver.WarmProcess, "prepare", lambda self, *_: self)  # it would import torch
    ray.may.set()
    begun = Early(RunOptions(cpus_per_trial=3))
    assert begun.warm is not None
    assert begun.warm.threads == 3
    assert forkserver.warm_process(3, begun=begun.warm) is begun.warm
    begun.close()
    unused = Early(RunOptions())
    assert unused.warm is not None
    unused.close(wait=False)
    assert not Path(unused.warm.address).exists()
