"""Which slots are started: one after another as work waits, and none once that is hopeless."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import ray
from ray.tune.search import Searcher

from ablate.errors import ClusterError
from ablate.launch import tuning
from ablate.launch.attempt import Outcome, Task
from ablate.launch.pool import Pool
from ablate.launch.queue import Queue


class Told:
    """A driver that only listens."""

    def __init__(self) -> None:
        self.news: list[dict[str, Any]] = []
        self.done = False

    def begun(self) -> None: ...

    def report(self, news: dict[str, Any]) -> None:
        self.news.append(news)

    def tick(self) -> None: ...

    def over(self) -> bool:
        return self.done


class Near:
    """A queue that is asked as if it were an actor."""

    def __init__(self, queue: Queue) -> None:
        self.queue = queue

    def __getattr__(self, method: str) -> Any:
        return SimpleNamespace(remote=getattr(self.queue, method))


@pytest.fixture
def queue(monkeypatch: pytest.MonkeyPatch) -> Queue:
    monkeypatch.setattr("ray.get", lambda answer: answer)
    tasks = [Task(name, "e", {}).to_dict() for name in "abcdefgh"]
    return Queue(tasks, [[n] for n in range(8)], {}, 1)


def slots(queue: Queue, most: int = 4, at_once: int = 2) -> tuple[Pool, tuning._Search]:
    made = Pool(tuning._Asked(Near(queue)), most, at_once, Told())
    return made, tuning._Search(made)


def take(queue: Queue, slot: str, ended: str = "") -> str:
    """What a slot is given; it has done `ended`."""
    outcome = [{**Outcome(ended, "done").to_dict(), "task": ended}] if ended else []
    reply = queue.exchange(slot, outcome, [], True, False)
    return str(reply["works"][0][0]["key"]) if reply["works"] else ""


def test_slots_are_asked_for_as_many_at_a_time_as_may_start_and_no_more_than_there_may_be(queue: Queue) -> None:
    made, search = slots(queue)
    made.since = 1.0  # slots have worked for ages
    assert [search.suggest(name) for name in "123"] == [{"slot": "1"}, {"slot": "2"}, None]
    made.up("1")
    assert [search.suggest(name) for name in "34"] == [{"slot": "3"}, None]
    made.up("2")
    made.up("3")
    assert [search.suggest(name) for name in "45"] == [{"slot": "4"}, None]
    made.up("4")
    assert search.suggest("5") is None


def test_slots_beyond_the_cores_are_started_only_for_work_that_takes_longer_than_starting_one(queue: Queue) -> None:
    made, search = slots(queue, most=64)
    for name in "12":
        search.suggest(name)
        made.up(name)
    assert search.suggest("3") is None  # nothing is known yet of how long work takes
    take(queue, "1", "")
    queue.exchange("1", [], [{"task": "a", "step": 0}], False, False)
    made.hear()  # work has begun; until then slots wait for a process that imports torch
    assert search.suggest("3") is None
    made.since -= 20
    assert search.suggest("3") == {"slot": "3"}
    made.up("3")
    made.done = 100  # in 20 seconds
    assert search.suggest("4") is None
    made.done = 2
    assert search.suggest("4") == {"slot": "4"}


def test_no_slot_is_started_for_work_that_others_have_done_by_then(queue: Queue) -> None:
    made, search = slots(queue, most=64, at_once=2)
    search.suggest("1")
    made.up("1")
    done = ""
    while done := take(queue, "1", done):
        pass
    made.hear()
    assert search.suggest("2") is None
    search.on_trial_complete("1")
    assert search.suggest("3") == Searcher.FINISHED


def test_a_slot_that_died_is_replaced_and_its_work_goes_to_the_next(queue: Queue) -> None:
    made, search = slots(queue, most=1)
    search.suggest("1")
    assert take(queue, "1") == "a"
    search.on_trial_complete("1", error=True)
    made.died("1", "killed")
    assert search.suggest("2") == {"slot": "2"}
    assert take(queue, "2") == "a"
    made.check()


def test_workers_that_all_die_as_they_start_end_the_run_with_one_line(queue: Queue) -> None:
    made, search = slots(queue)
    for name in "1234":
        assert not made.over()
        assert search.suggest(name) == {"slot": name}
        search.on_trial_complete(name, error=True)
        made.died(name, "ModuleNotFoundError: ablate_core")
    assert made.over()
    assert search.suggest("5") == Searcher.FINISHED
    with pytest.raises(ClusterError, match="before they take any work: ModuleNotFoundError: ablate_core"):
        made.check()


def test_a_queue_that_is_gone_ends_the_run_with_its_one_line_wherever_that_is_seen(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tune puts what its searcher raises into an error of its own, with a traceback in it."""
    made, search = slots(queue)
    search.suggest("1")

    def dead(_: Any) -> Any:
        raise ray.exceptions.RayActorError

    monkeypatch.setattr("ray.get", dead)
    search.on_trial_complete("1")
    assert made.over()
    with pytest.raises(ClusterError, match="the process that held the run's queue was killed"):
        made.check()


def test_nothing_is_started_once_the_driver_says_that_it_is_over(queue: Queue) -> None:
    made, search = slots(queue)
    made.monitor.done = True  # type: ignore[attr-defined]
    assert search.suggest("1") == Searcher.FINISHED
