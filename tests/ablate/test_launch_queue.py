"""What a run's queue hands out, and what it makes of how things end."""

from __future__ import annotations

from typing import Any

import pytest

from ablate.launch.attempt import Outcome, Task
from ablate.launch.queue import Queue


def task(name: str) -> Task:
    key, _, way = name.partition("-")
    return Task(key, way or "own", {}, "eval" if way else "train")


def queue(works: str, deaths: int = 1, **retries: int) -> Queue:
    """A queue of works such as ``"a+b a-e2 c"``: a pack of two trainings, an evaluation of the first, a training."""
    names = [work.split("+") for work in works.split()]
    tasks = [task(name) for work in names for name in work]
    place = {made.id: index for index, made in enumerate(tasks)}
    return Queue([made.to_dict() for made in tasks], [[place[n] for n in work] for work in names], retries, deaths)


def ask(made: Queue, slot: str = "s", *, stopping: bool = False) -> str:
    """What a free slot is given, as it is written in `queue`; "" for nothing yet, "over" for nothing any more."""
    reply = made.exchange(slot, [], [], True, stopping)
    if reply["works"]:
        return " ".join("+".join(Task(**given).id for given in work) for work in reply["works"])
    return "over" if reply["over"] else ""


def end(made: Queue, name: str, status: Any = "done", slot: str = "s", stopping: bool = False, **fields: Any) -> None:
    outcome = Outcome(task(name).key, status, **fields)
    made.exchange(slot, [{**outcome.to_dict(), "task": name}], [], False, stopping)


def ends(made: Queue) -> list[tuple[str, str]]:
    return [(outcome["task"], outcome["status"]) for outcome in made.news()["ended"]]


def test_slots_take_what_is_next_as_soon_as_they_are_free() -> None:
    made = queue("a b c d")
    assert [ask(made, "one"), ask(made, "two")] == ["a", "b"]
    for name in "bc":  # the second slot is twice as fast
        end(made, name, slot="two")
        ask(made, "two")
    assert made.leases["two"][0][0].id == "d"
    end(made, "a", slot="one")
    assert ask(made, "one") == "over"
    news = made.news()
    assert [start["task"] for start in news["started"]] == ["a", "b", "c", "d"]
    assert (news["ready"], news["held"], news["left"]) == (0, 1, 1)
    end(made, "d", slot="two")
    assert made.news()["left"] == 0


def test_before_anything_has_ended_what_is_longest_by_its_length_comes_first() -> None:
    tasks = [Task(name + seed, "e", {}, "train", name, int(seed)) for seed in "01" for name in "abcd"]
    lengths = [3.0, 4.0, None, 3.5] * 2
    made = Queue([one.to_dict() for one in tasks], [[index] for index in range(8)], {}, 0, lengths)
    assert [ask(made, slot) for slot in "xyzu"] == ["c0", "b0", "d0", "a0"]  # of c nothing is known
    end(made, "b0", slot="y", wall_seconds=8.0)  # 2 seconds for a unit of length
    end(made, "a0", slot="u", wall_seconds=7.5)  # longer than its length told, and than d's, which comes to 7.75
    assert [ask(made, slot) for slot in "yu"] == ["c1", "b1"]
    end(made, "c0", slot="x", wall_seconds=1.0)
    assert [ask(made, slot) for slot in "xv"] == ["d1", "a1"]


def test_of_the_next_seed_what_took_longest_comes_first_and_before_it_what_is_new() -> None:
    arms = {"a": 3.0, "b": 1.0, "c": 9.0}
    tasks = [Task(f"{label}{seed}", "own", {}, "train", label, seed) for seed in (0, 1) for label in arms]
    tasks.insert(5, Task("d1", "own", {}, "train", "d", 1))  # added to the study later
    made = Queue([one.to_dict() for one in tasks], [[index] for index in range(7)], {}, 0)
    order = []
    while (name := ask(made)) != "over":
        order.append(name)
        end(made, name, wall_seconds=arms.get(name[0], 0.0))
    assert order == ["a0", "b0", "c0", "d1", "c1", "a1", "b1"]


def test_a_pack_is_as_long_as_its_members_together() -> None:
    labels = {"a0": "a", "b0": "b", "b1": "b", "a1": "a", "c1": "b"}
    tasks = [Task(key, "own", {}, "train", label, int(key[1])) for key, label in labels.items()]
    made = Queue([one.to_dict() for one in tasks], [[0], [1], [2], [3, 4]], {}, 0)
    for name, seconds in (("a0", 2.0), ("b0", 3.0)):
        assert ask(made) == name
        end(made, name, wall_seconds=seconds)
    assert [ask(made, "one"), ask(made, "two")] == ["a1+c1", "b1"]


def test_an_evaluation_waits_for_its_training_and_then_comes_first() -> None:
    made = queue("a a-e2 b a-e4")
    assert ask(made) == "a"
    assert ask(made, "other") == "b"
    end(made, "b", slot="other")
    assert ask(made, "other") == ""  # not over: there will be something to evaluate
    end(made, "a")
    assert [ask(made, "other"), ask(made)] == ["a-e2", "a-e4"]
    assert ends(made) == [("b", "done"), ("a", "done")]


def test_an_evaluation_of_a_network_that_is_there_waits_for_nothing() -> None:
    assert ask(queue("a-e2 b")) == "a-e2"


@pytest.mark.parametrize("status", ["failed", "diverged", "interrupted"])
def test_a_network_that_is_not_trained_to_its_end_is_not_evaluated(status: str) -> None:
    made = queue("a a-e2")
    ask(made)
    end(made, "a", status)
    assert ask(made) == "over"
    assert made.news()["left"] == 0


def test_a_failure_is_tried_again_as_often_as_its_cause_allows() -> None:
    made = queue("a b", oom=2, crash=-1)
    for _ in range(3):
        assert ask(made) == "a"  # before anything else
        end(made, "a", "failed", cause="oom")
    assert ends(made) == [("a", "failed")]
    for _ in range(5):
        assert ask(made) == "b"
        end(made, "b", "failed", cause="crash")
    assert ends(made) == []
    assert ask(made) == "b"
    end(made, "b", "failed", cause="error")
    assert ends(made) == [("b", "failed")]


def test_an_attempt_whose_forking_process_died_is_given_to_the_next_and_its_seconds_are_told() -> None:
    made = queue("a b+c", preempt=1)
    assert ask(made) == "a"
    end(made, "a", "failed", cause="preempt", error_type="WorkerDied", wall_seconds=3.0)
    news = made.news()
    assert (news["ended"], [(o["task"], o["wall_seconds"]) for o in news["retried"]]) == ([], [("a", 3.0)])
    assert made.news()["retried"] == []
    assert ask(made) == "a"
    end(made, "a", "failed", cause="preempt")
    assert ends(made) == [("a", "failed")]
    assert ask(made) == "b+c"
    for name in "bc":
        end(made, name, "failed", cause="preempt", packed=2)
    assert ends(made) == [], "nor is it a member's doing"
    assert ask(made) == "b"


def test_nothing_is_handed_out_or_tried_again_after_a_stop() -> None:
    made = queue("a b", oom=9)
    ask(made)
    end(made, "a", "failed", cause="oom", stopping=True)
    assert ends(made) == [("a", "failed")]
    assert ask(made, stopping=True) == "over"
    assert ask(made) == "b"


def test_what_a_dead_worker_held_is_given_to_the_next_and_lost_when_that_happens_too_often() -> None:
    made = queue("a a-e2 b", deaths=1)
    assert ask(made, "one") == "a"
    news = made.release("one", "node gone")
    assert (news["lost"], news["ready"], news["idle_deaths"]) == ([], 2, 0)
    assert ask(made, "two") == "a"
    news = made.release("two", "node gone")
    assert news["lost"] == [{"task": "a", "error": "node gone"}]
    assert ask(made, "three") == "b"
    end(made, "b", slot="three")
    assert ask(made, "three") == "over"
    assert made.release("two", "again")["lost"] == []


def test_workers_that_die_before_they_take_anything_are_counted_until_one_does_something() -> None:
    made = queue("a b")
    assert [made.release(str(n), "no module")["idle_deaths"] for n in range(3)] == [1, 2, 3]
    ask(made)
    end(made, "a")
    assert made.news()["idle_deaths"] == 0


def test_a_pack_that_breaks_is_tried_again_in_halves_until_the_culprit_is_alone() -> None:
    made = queue("a+b+c+d+e f")
    assert ask(made) == "a+b+c+d+e"
    for name in "abcde":
        end(made, name, "failed", cause="crash", packed=5)
    assert ends(made) == []
    assert [ask(made, "one"), ask(made, "two")] == ["a+b+c", "d+e"]
    for name in "de":
        end(made, name, "failed", cause="pack", packed=2, slot="two")
    for name in "abc":
        end(made, name, slot="one")
    assert [ask(made, "one"), ask(made, "two")] == ["d", "e"]
    end(made, "d", "failed", cause="crash", slot="one")  # alone it is its own fault
    end(made, "e", slot="two")
    assert ends(made) == [("a", "done"), ("b", "done"), ("c", "done"), ("d", "failed"), ("e", "done")]
    assert [start["packed"] for start in made.news()["started"]] == []
    assert ask(made) == "f"


def test_all_members_of_a_broken_pack_are_retried_together_when_they_end_together() -> None:
    made = queue("a+b+c+d")
    ask(made)
    outcomes = [{**Outcome(n, "failed", cause="oom", packed=4).to_dict(), "task": n} for n in "abcd"]
    made.exchange("s", outcomes, [], False, False)
    assert [ask(made, "one"), ask(made, "two")] == ["a+b", "c+d"]
    assert [start["packed"] for start in made.news()["started"]] == [4] * 4 + [2] * 4


def test_a_pack_that_breaks_after_a_stop_was_only_interrupted() -> None:
    made = queue("a+b")
    ask(made)
    for name in "ab":
        end(made, name, "failed", cause="oom", packed=2, stopping=True)
    assert ends(made) == [("a", "interrupted"), ("b", "interrupted")]


def test_a_member_that_fails_by_itself_fails_and_the_others_go_on() -> None:
    made = queue("a+b")
    ask(made)
    end(made, "a", "failed", cause="error", packed=2)
    assert ends(made) == [("a", "failed")]
    assert made.news()["held"] == 1
    end(made, "b")
    assert (ends(made), made.news()["held"]) == ([("b", "done")], 0)


def test_the_death_of_a_packs_worker_is_no_members_fault() -> None:
    made = queue("a+b+c", deaths=0)
    ask(made, "one")
    assert made.release("one", "gone")["lost"] == []
    assert [ask(made, "two"), ask(made, "three")] == ["a+b", "c"]
    assert made.release("three", "gone")["lost"] == [{"task": "c", "error": "gone"}]


def test_progress_is_passed_on_once_and_only_while_a_task_runs() -> None:
    made = queue("a b")
    ask(made)
    made.exchange("s", [], [{"task": "a", "step": 1}], False, False)
    made.exchange("s", [], [{"task": "a", "step": 2}], False, False)
    assert made.news()["progress"] == [{"task": "a", "step": 2}]
    assert made.news()["progress"] == []
    outcome = {**Outcome("a", "done").to_dict(), "task": "a"}
    made.exchange("s", [outcome], [{"task": "a", "step": 3}], False, False)
    assert made.news()["progress"] == []


def singles(count: int, deaths: int = 0) -> Queue:
    """So many trainings of one arm, ``t00 t01 ...``; the first has been given to slot ``s``."""
    made = queue(" ".join(f"t{n:02}" for n in range(count)), deaths)
    assert ask(made) == "t00"
    return made


def test_units_that_are_over_in_no_time_are_handed_out_together() -> None:
    made = singles(40)
    end(made, "t00", wall_seconds=0.001)
    given = ask(made)
    assert given == " ".join(f"t{n:02}" for n in range(1, 17))
    news = made.news()
    assert [start["task"] for start in news["started"]] == ["t00", "t01"]  # the others wait in the slot
    assert (news["ready"], news["held"], news["left"]) == (23, 16, 39)
    for name in given.split():
        end(made, name, wall_seconds=0.001)
    assert (made.news()["held"], made.leases) == (0, {})


def test_a_handful_takes_no_longer_than_it_may() -> None:
    made = singles(40)
    end(made, "t00", wall_seconds=0.06)
    assert ask(made) == "t01 t02 t03"
    assert ask(made, "other") == "t04 t05 t06"


def test_a_handful_leaves_enough_for_the_other_slots() -> None:
    made = singles(12)
    ask(made, "one")
    ask(made, "two")
    end(made, "t00", wall_seconds=0.0)
    assert ask(made) == "t03"  # 8 more wait, and two others work
    end(made, "t01", slot="one")
    end(made, "t02", slot="two")
    end(made, "t03")
    assert ask(made) == "t04 t05 t06"


def test_what_is_new_or_packed_is_in_no_handful() -> None:
    labels = {**{f"a{n}": "a" for n in range(24)}, "b": "b", "p": "a", "q": "a"}
    tasks = [Task(key, "own", {}, "train", label) for key, label in labels.items()]
    made = Queue([one.to_dict() for one in tasks], [*([n] for n in range(25)), [25, 26]], {}, 0)
    assert [ask(made, slot) for slot in "xyz"] == ["a0", "a1", "a2"]
    for name, slot in zip(("a0", "a1", "a2"), "xyz", strict=True):
        end(made, name, slot=slot, wall_seconds=0.001)
    assert ask(made, "x") == "b"  # nothing is known of it
    assert ask(made, "y") == "p+q"  # longer than one alone
    assert ask(made, "z") == "a3 a4 a5"


def test_what_a_slot_has_not_begun_when_it_is_stopped_waits_again() -> None:
    made = singles(40)
    end(made, "t00", wall_seconds=0.001)
    ask(made)
    end(made, "t01", "interrupted", stopping=True)
    assert ask(made, stopping=True) == "over"
    news = made.news()
    assert (news["held"], news["ready"], news["lost"]) == (0, 38, [])
    assert [work[0].id for work in made.ready] == [f"t{n:02}" for n in range(2, 40)]


def test_when_a_worker_dies_with_several_units_in_hand_each_is_tried_alone() -> None:
    made = singles(40)
    end(made, "t00", wall_seconds=0.001)
    assert len(ask(made).split()) == 16
    assert made.release("s", "gone")["lost"] == []
    assert ask(made, "two") == "t01"
    assert made.release("two", "gone")["lost"] == [{"task": "t01", "error": "gone"}]  # now it was this one
    assert ask(made, "three") == "t02"
    end(made, "t02", slot="three")
    assert ask(made, "three") == "t03"
