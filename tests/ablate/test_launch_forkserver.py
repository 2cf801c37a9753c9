"""Forks of the warm process: their ends are told apart, and none outlives its driver."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ablate.launch.forkserver import ForkServer, WarmProcess, warm_process

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def warm() -> Iterator[WarmProcess]:
    process = WarmProcess(["json"], sys_path=[str(HERE), *sys.path]).prepare("launch_trainers:body")
    yield process
    process.close()


@pytest.fixture
def server(warm: WarmProcess) -> Iterator[ForkServer]:
    connection = ForkServer(warm.address)
    yield connection
    connection.close()


def messages(server: ForkServer, until: str = "exited", seconds: float = 20.0) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        for message in server.poll(0.5):
            found.append(message)
        if any(until in message for message in found):
            return found
    raise AssertionError(f"no {until} within {seconds} s, only {found}")


def alive(pid: int) -> bool:
    """Whether the process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def gone(pids: list[int], seconds: float = 5.0) -> bool:
    deadline = time.monotonic() + seconds
    while any(map(alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not any(map(alive, pids))


@pytest.mark.parametrize(
    ("do", "code", "name"),
    [("ok", 0, None), ("exit", 9, None), ("segfault", None, "SIGSEGV"), ("raise", 1, None)],
)
def test_the_end_of_a_fork_is_told_by_code_or_signal(
    server: ForkServer, tmp_path: Path, do: str, code: int | None, name: str | None
) -> None:
    server.run({"do": do}, str(tmp_path / "log.txt"))
    exited = messages(server)[-1]["exited"]
    assert (exited["code"], exited["signal"]) == (code, name)
    assert exited["peak_mem_mb"] > 1


def test_a_crash_leaves_the_server_able_to_fork_again_in_milliseconds(server: ForkServer, tmp_path: Path) -> None:
    log = str(tmp_path / "log.txt")
    for do in ("exit", "segfault", "ok"):
        server.run({"do": do}, log)
        assert "exited" in messages(server)[-1]
    began = time.monotonic()
    for _ in range(5):
        server.run({"do": "ok"}, log)
        messages(server)
    assert (time.monotonic() - began) / 5 < 0.5  # an interpreter alone takes that long here; a fork about 0.02 s


def test_every_attempt_has_a_process_of_its_own(server: ForkServer, tmp_path: Path) -> None:
    pids = []
    for _ in range(2):
        server.run({"do": "ok"}, str(tmp_path / "log.txt"))
        pids.append(messages(server)[0]["report"]["pid"])
    assert len({*pids, os.getpid()}) == 3


def children(pid: int) -> set[int]:
    """Processes that live and were forked by this one."""
    return {child for child in map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()) if alive(child)}


def test_the_next_attempt_is_forked_ahead_and_told_everything_when_it_begins(
    server: ForkServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = str(tmp_path / "log.txt")
    server.run({"do": "ok"}, log)
    first = messages(server)[0]["report"]
    (spare,) = wait_for(lambda: children(first["server"]) - {first["pid"]})
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    server.run({"do": "wait"}, log)
    second = messages(server, until="report")[0]["report"]
    assert (second["pid"], second["devices"]) == (spare, "7")
    assert children(first["server"]) == {spare}  # none waits while an attempt works
    server.stop()
    assert messages(server)[-1]["exited"]["code"] == 0


def test_a_spare_that_was_killed_is_replaced(server: ForkServer, tmp_path: Path) -> None:
    log = str(tmp_path / "log.txt")
    server.run({"do": "ok"}, log)
    first = messages(server)[0]["report"]
    (spare,) = wait_for(lambda: children(first["server"]) - {first["pid"]})
    os.kill(spare, signal.SIGKILL)
    assert gone([spare])
    server.run({"do": "ok"}, log)
    found = messages(server)
    assert found[0]["report"]["pid"] not in (spare, first["pid"])
    assert found[-1]["exited"]["code"] == 0


def wait_for(ask: Callable[[], set[int]], seconds: float = 5.0) -> set[int]:
    deadline = time.monotonic() + seconds
    while not (found := ask()) and time.monotonic() < deadline:
        time.sleep(0.01)
    return found


def test_output_and_traceback_of_a_fork_are_appended_to_its_log(server: ForkServer, tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    for do in ("print", "raise", "segfault"):
        server.run({"do": do}, str(log))
        messages(server)
    text = log.read_text()
    assert text.index("said in the fork") < text.index("RuntimeError: in the fork") < text.index("Segmentation fault")


def test_a_stop_reaches_the_attempt(server: ForkServer, tmp_path: Path) -> None:
    server.run({"do": "wait"}, str(tmp_path / "log.txt"))
    messages(server, until="report")
    server.stop()
    found = messages(server)
    assert {"report": {"stopped": True}} in found
    assert found[-1]["exited"]["code"] == 0


@pytest.mark.parametrize(
    ("do", "code", "name"), [("ok", 0, None), ("exit", 9, None), ("segfault", None, "SIGSEGV"), ("raise", 1, None)]
)
def test_what_an_attempt_has_forked_neither_hides_its_end_nor_outlives_it(
    server: ForkServer, tmp_path: Path, do: str, code: int | None, name: str | None
) -> None:
    """A child holds the attempt's pipe, so that no end-of-file tells of its end, and the lock of its trial."""
    server.run({"do": do, "forks": True}, str(tmp_path / "log.txt"))
    found = messages(server, seconds=10)
    assert (found[-1]["exited"]["code"], found[-1]["exited"]["signal"]) == (code, name)
    assert gone([found[0]["report"]["child"]])


def test_a_killed_attempt_takes_along_what_it_has_forked(server: ForkServer, tmp_path: Path) -> None:
    server.run({"do": "wait", "forks": True}, str(tmp_path / "log.txt"))
    child = messages(server, until="report")[0]["report"]["child"]
    assert alive(child)
    server.kill()
    assert messages(server)[-1]["exited"]["signal"] == "SIGKILL"
    assert gone([child])


def test_an_attempt_is_what_the_kernel_ends_where_memory_runs_out(server: ForkServer, tmp_path: Path) -> None:
    def score(pid: int) -> int:
        return int(Path(f"/proc/{pid}/oom_score_adj").read_text())

    server.run({"do": "wait"}, str(tmp_path / "log.txt"))
    report = messages(server, until="report")[0]["report"]
    assert score(report["pid"]) == 1000
    assert score(report["server"]) == score(os.getpid())
    assert os.getpgid(report["pid"]) == report["pid"]


def test_closing_the_connection_kills_the_attempt(warm: WarmProcess, tmp_path: Path) -> None:
    connection = ForkServer(warm.address)
    connection.run({"do": "wait"}, str(tmp_path / "log.txt"))
    report = messages(connection, until="report")[0]["report"]
    connection.close()
    assert gone([report["pid"], report["server"]])


def test_a_dead_server_is_a_crash_and_the_next_attempt_gets_a_new_one(warm: WarmProcess, tmp_path: Path) -> None:
    connection = ForkServer(warm.address)
    connection.run({"do": "wait"}, str(tmp_path / "log.txt"))
    report = messages(connection, until="report")[0]["report"]
    os.kill(report["server"], signal.SIGKILL)
    assert messages(connection)[-1]["exited"]["code"] is None
    assert gone([report["pid"]])
    connection.run({"do": "ok"}, str(tmp_path / "log.txt"))
    assert messages(connection)[-1]["exited"]["code"] == 0
    connection.close()


STARTER = """
import sys, time
from ablate.launch.forkserver import ForkServer, WarmProcess, warm_process
warm = WarmProcess(["json"]).prepare("launch_trainers:body")
server = ForkServer(warm.address)
server.run({"do": "wait"}, sys.argv[1])
while True:
    for message in server.poll(1):
        print(warm.pid, message["report"]["server"], message["report"]["pid"], warm.address, flush=True)
"""


def test_nothing_survives_the_kill_of_the_process_that_started_it(tmp_path: Path) -> None:
    starter = subprocess.Popen(
        [sys.executable, "-c", STARTER, str(tmp_path / "log.txt")],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(HERE)},
    )
    assert starter.stdout is not None
    *pids, address = starter.stdout.readline().split()
    assert all(alive(int(pid)) for pid in pids)
    starter.kill()
    starter.wait()
    assert gone([int(pid) for pid in pids])
    assert not Path(address).exists()


def test_others_are_called_at_a_fork_when_they_ask_and_what_we_import_is_not(tmp_path: Path) -> None:
    hooked = "import os\ncalled = []\nos.register_at_fork(after_in_child=lambda: called.append(1))\n"
    for name in ("imported_by_us", "a_trainer"):
        (tmp_path / f"{name}.py").write_text(hooked)
    process = WarmProcess(["imported_by_us"], sys_path=[str(tmp_path), str(HERE), *sys.path])
    process.prepare("launch_trainers:body", [("importlib:import_module", ["a_trainer"])])
    server = ForkServer(process.address)
    try:
        found = []
        for _ in range(2):
            server.run({"do": "hooks", "modules": ["imported_by_us", "a_trainer"]}, str(tmp_path / "log"))
            found.append(messages(server)[0]["report"])
    finally:
        server.close()
        process.close()
    for report in found:
        assert (report["imported_by_us"], report["a_trainer"]) == (0, 2)  # at the server's fork and at the attempt's
    assert found[0]["random"] != found[1]["random"]


def test_the_warm_process_has_imported_what_a_trial_needs_and_started_no_thread(tmp_path: Path) -> None:
    digits = {"schedule": "linear", "objective": "fm", "architecture": "mlp", "data": "digits"}
    digits |= {"train": {"steps": 1, "batch_size": 4}, "eval": {"metric": "fd_digits", "samples": 8}}
    process = warm_process(1, sys_path=[str(HERE), *sys.path], ahead=[digits])
    try:
        connection = ForkServer(process.address)
        broken = {"key": "0123", "eval_key": "", "config": {"train": 0}}
        task = {"tasks": [broken], "context": {"store": str(tmp_path)}}
        connection.run(task, str(tmp_path / "log.txt"))
        found = messages(connection, seconds=120)
        assert found[-1]["exited"]["code"] == 0
        assert found[-2]["report"]["outcome"]["error_type"] == "ValidationError"  # it got as far as the config
        status = Path(f"/proc/{process.pid}/status").read_text()
        assert "Threads:\t1\n" in status  # a fork of a process with threads may hang
        maps = Path(f"/proc/{process.pid}/maps").read_text()
        assert "torch" in maps
        assert "libcuda.so" not in maps
        connection.close()
    finally:
        process.close()
    assert gone([process.pid])
