"""A clean process that has imported torch and the trainer, from which every attempt is forked.

Importing torch takes seconds, forking a process that has imported it takes milliseconds, and a crash of the fork
(segfault, out of memory, ``os._exit``) ends that attempt alone. The warm process sets no threads, touches no CUDA and
runs no torch operation, because none of those survive a fork.

    driver or worker --starts--> warm process (`WarmProcess`): imports once, then forks a server for each slot
    slot (`ForkServer`) --Unix socket, JSON lines--> its server --fork--> attempt; reports come back the same way

Nobody outlives the driver. A server that reads end-of-file from its slot (Ray kills its workers when the driver dies)
kills its attempt and ends; so does the warm process when its starter is gone; and the kernel kills the child of a dead
parent (``PR_SET_PDEATHSIG``). No orphan goes on writing.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import gc
import importlib
import json
import os
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NoReturn

BOOTSTRAP = "import os, sys, json; sys.path[:] = json.loads(os.environ.pop('ABLATE_SYS_PATH')); "
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
DEVICE_VARIABLES = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")
PRELOAD = (
    "ablate_core.trainer",
    "ablate_core.evaluation",
    "ablate.launch.work",
    "torch._dynamo",  # the first optimizer step imports it, 2 CPU seconds in every attempt
    "torch._decomp.decompositions_for_jvp",  # the first forward derivative imports it, 0.2 CPU seconds
    "PIL.PngImagePlugin",
)
HUGE_PAGE = 2 << 20
WARM = ("ablate.store.provenance:environment",)
"""Called once before forking, because they cache what every attempt needs (git state, versions of packages)."""


class WarmProcess:
    """Starts the warm process and ends it.

    Args:
        body: ``module:function`` called in a fork with the task; it takes ``(task, send, should_stop)``.
        preload: modules imported before anything is forked.
        warm: ``module:function``s without arguments, called before anything is forked, to fill their caches.
        threads: cores of one attempt, given to every math library.
        sys_path: import path; ``None``: this process' own.
        many: hundreds of forks are to come: a CPU second is spent once on making each of them cheaper.
        plugins: loaded after that; one that cannot be loaded says so in each attempt.
    """

    def __init__(
        self,
        body: str,
        preload: list[str],
        warm: list[str] | None = None,
        threads: int = 1,
        sys_path: list[str] | None = None,
        plugins: Iterable[str] = (),
        many: bool = False,
    ) -> None:
        self._folder = tempfile.mkdtemp(prefix="ablate-")  # readable by us alone: whoever connects can run code
        self.address = os.path.join(self._folder, "warm")
        control, theirs = socket.socketpair()
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(self.address)
        listener.listen(1024)  # from now on slots may connect; they wait while the imports go on
        passed = {"control": theirs.fileno(), "listener": listener.fileno(), "address": self.address}
        loads = {"body": body, "preload": preload, "warm": warm or [], "plugins": [*plugins], "many": many}
        setup = json.dumps({**passed, **loads})
        code = f"{BOOTSTRAP}from ablate.launch.forkserver import main; main(json.loads({setup!r}))"
        variables = dict.fromkeys(THREAD_VARIABLES, str(threads))
        variables["ABLATE_SYS_PATH"] = json.dumps(
            [p or os.getcwd() for p in (sys.path if sys_path is None else sys_path)]
        )
        with theirs, listener:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", code],
                pass_fds=[theirs.fileno(), listener.fileno()],
                env={**os.environ, **variables},
                stdin=subprocess.DEVNULL,
            )
        self._control: socket.socket | None = control

    @property
    def pid(self) -> int:
        return self._process.pid

    def close(self) -> None:
        """End the warm process, its servers and their attempts."""
        if self._control is None:
            return
        self._control.close()
        self._control = None
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)


class ForkServer:
    """A slot's connection to its server. Not thread-safe; one attempt at a time.

    Args:
        address: of a warm process on this machine.
        threads: torch threads of an attempt.
    """

    def __init__(self, address: str, threads: int = 1) -> None:
        self._address, self._threads = address, threads
        self._socket: socket.socket | None = None
        self._buffer = b""

    def run(self, task: dict[str, Any], log: str) -> None:
        """Fork an attempt at `task`, its output appended to the file `log`.

        Raises:
            OSError: the warm process is gone.
        """
        if self._socket is None:
            connection = socket.socket(socket.AF_UNIX)
            try:
                connection.connect(self._address)
            except OSError:
                connection.close()
                raise
            self._socket, self._buffer = connection, b""
        devices = {name: os.environ[name] for name in DEVICE_VARIABLES if name in os.environ}
        self._send({"run": task, "log": log, "threads": self._threads, "env": devices})

    def stop(self) -> None:
        """Ask the running attempt to checkpoint and end (SIGTERM)."""
        self._send({"signal": int(signal.SIGTERM)})

    def kill(self) -> None:
        """Kill the running attempt."""
        self._send({"signal": int(signal.SIGKILL)})

    def _send(self, message: dict[str, Any]) -> None:
        if self._socket is not None:
            with contextlib.suppress(OSError):  # a dead server shows as end-of-file in `poll`
                self._socket.sendall(json.dumps(message).encode() + b"\n")

    def poll(self, timeout: float) -> Iterator[dict[str, Any]]:
        """Messages that arrive within `timeout` seconds; ends early after the first batch.

        Yields:
            ``{"report": ...}`` sent by the attempt, and last ``{"exited": {"code": int | None, "signal": name | None,
            "cpu_seconds": float, "peak_mem_mb": float}}``. When the server died with its attempt, both are None.
        """
        if self._socket is None:
            time.sleep(timeout)
            return
        self._socket.settimeout(max(timeout, 1e-3))
        try:
            data = self._socket.recv(1 << 16)
        except TimeoutError:
            return
        except OSError:
            data = b""
        finally:
            self._socket.settimeout(None)
        if not data:
            self._socket.close()
            self._socket = None
            yield {"exited": {"code": None, "signal": None, "cpu_seconds": 0.0, "peak_mem_mb": 0.0}}
            return
        self._buffer += data
        *lines, self._buffer = self._buffer.split(b"\n")
        yield from map(json.loads, lines)

    def close(self) -> None:
        """End the server and the attempt it runs; returns when both are gone."""
        if self._socket is None:
            return
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)
            self._socket.settimeout(5)
            while self._socket.recv(1 << 16):
                pass
        self._socket.close()
        self._socket = None


def warm_process(
    threads: int, plugins: Iterable[str] = (), sys_path: list[str] | None = None, many: bool = False
) -> WarmProcess:
    """The warm process that attempts at trials are forked from."""
    return WarmProcess("ablate.launch.work:forked_work", list(PRELOAD), list(WARM), threads, sys_path, plugins, many)


# --- the warm process and its servers


def main(setup: dict[str, Any]) -> None:
    """Import, then fork a server for each connection until the starter hangs up. Runs in the warm process."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):  # those reach the attempts by way of the driver
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])  # Ray blocks SIGINT in its workers; attempts start unblocked
    control = socket.socket(fileno=setup["control"])
    listener = socket.socket(fileno=setup["listener"])
    with warnings.catch_warnings(action="ignore"):  # torch warns of what it does itself, in the driver's terminal
        for module in setup["preload"]:
            with contextlib.suppress(ImportError):
                importlib.import_module(module)
    if setup["plugins"]:
        with contextlib.suppress(ValueError):
            _load("ablate_core.plugins:load")(setup["plugins"])
    for name in setup["warm"]:
        with contextlib.suppress(Exception):
            _load(name)()
    body = _load(setup["body"])
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # servers are not waited for
    gc.collect()
    gc.freeze()  # keep the pages of the imports shared after a fork
    if setup["many"]:
        merge_pages()
    parent = os.getpid()
    selector = selectors.DefaultSelector()
    selector.register(control, selectors.EVENT_READ)
    selector.register(listener, selectors.EVENT_READ)
    while True:
        ready = [key.fileobj for key, _ in selector.select()]
        if control in ready:  # nothing is ever sent: the starter has hung up
            shutil.rmtree(os.path.dirname(setup["address"]), ignore_errors=True)
            os._exit(
                0
            )  # no interpreter shutdown: extension modules complain about leaks then, in the driver's terminal
        connection, _ = listener.accept()
        if os.fork() == 0:
            die_with_parent(parent)
            for inherited in (control, listener, selector):
                inherited.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            try:
                _Server(connection, body).serve()
            finally:
                os._exit(0)
        connection.close()


def _load(name: str) -> Callable[..., Any]:
    module, _, attribute = name.partition(":")
    loaded: Callable[..., Any] = getattr(importlib.import_module(module), attribute)
    return loaded


class _Server:
    """Serves one slot: forks its attempts and passes their reports on."""

    def __init__(self, connection: socket.socket, body: Callable[..., None]) -> None:
        self.connection, self.body = connection, body
        self.selector = selectors.DefaultSelector()
        self.selector.register(connection, selectors.EVENT_READ, "slot")
        self.child: int | None = None
        self.reports = b""
        self.buffer = b""

    def serve(self) -> None:
        try:
            while True:
                for key, _ in self.selector.select():
                    if not (self.from_slot() if key.data == "slot" else self.from_child(key.fd)):
                        return
        finally:
            if self.child is not None:
                os.kill(self.child, signal.SIGKILL)
                os.waitpid(self.child, 0)

    def from_slot(self) -> bool:
        try:
            data = self.connection.recv(1 << 20)
        except OSError:
            data = b""
        self.buffer += data
        *lines, self.buffer = self.buffer.split(b"\n")
        for message in map(json.loads, lines):
            if "run" in message:
                self.fork(message)
            elif self.child is not None:
                os.kill(self.child, message["signal"])
        return bool(data)

    def fork(self, message: dict[str, Any]) -> None:
        assert self.child is None
        read, write = os.pipe()
        server = os.getpid()
        child = os.fork()
        if child == 0:
            os.close(read)
            self.connection.close()
            self.selector.close()
            _attempt(self.body, message, write, server)
        os.close(write)
        self.child, self.reports = child, b""
        self.selector.register(read, selectors.EVENT_READ, "child")

    def from_child(self, read: int) -> bool:
        """Forward the child's reports; end-of-file on its pipe means that it has ended."""
        data = os.read(read, 1 << 16)
        if data:
            *lines, self.reports = (self.reports + data).split(b"\n")
            self.reply(*(b'{"report":' + line + b"}" for line in lines))
            return True
        self.selector.unregister(read)
        os.close(read)
        assert self.child is not None
        _, status, usage = os.wait4(self.child, 0)
        self.child = None
        unit = 1 if sys.platform == "darwin" else 1024  # bytes of one ru_maxrss
        code = os.waitstatus_to_exitcode(status)
        ended = {
            "code": code if code >= 0 else None,
            "signal": signal.Signals(-code).name if code < 0 else None,
            "cpu_seconds": usage.ru_utime + usage.ru_stime,
            "peak_mem_mb": usage.ru_maxrss * unit / 2**20,
        }
        self.reply(json.dumps({"exited": ended}).encode())
        return True

    def reply(self, *lines: bytes) -> None:
        with contextlib.suppress(OSError):  # the slot is gone: the next read ends the server
            self.connection.sendall(b"".join(line + b"\n" for line in lines))


def _attempt(body: Callable[..., None], message: dict[str, Any], write: int, server: int) -> NoReturn:
    """The forked process: from here on everything belongs to one attempt. Never returns into the server's code."""
    code = 1
    try:
        die_with_parent(server)
        stop = _stop_on_signals()
        os.environ.update(message["env"])
        log = os.open(message["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        null = os.open(os.devnull, os.O_RDONLY)
        for target, source in ((0, null), (1, log), (2, log)):
            os.dup2(source, target)
        sys.stdout = open(1, "w", buffering=1, closefd=False, encoding="utf-8", errors="replace")
        sys.stderr = open(2, "w", buffering=1, closefd=False, encoding="utf-8", errors="replace")
        faulthandler.enable(sys.stderr)
        if torch := sys.modules.get("torch"):
            torch.set_num_threads(message["threads"])

        def send(report: dict[str, Any]) -> None:
            os.write(write, json.dumps(report).encode() + b"\n")

        body(message["run"], send, stop)
        code = 0
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)  # no interpreter shutdown: it can hang on threads of math libraries, and costs time


def _stop_on_signals() -> Callable[[], bool]:
    """SIGTERM and SIGUSR1 (Slurm's warning) ask for a checkpoint and an end."""
    asked: list[int] = []
    for name in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(name, lambda number, _frame: asked.append(number))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole process group; the driver decides
    return lambda: bool(asked)


def merge_pages() -> None:
    """Ask the kernel to hold this process' memory in pages of 2 MiB (Linux 6.1).

    A fork copies the table of pages and its end takes it apart again: with the 100,000 small ones that torch needs both
    take milliseconds. Where the kernel cannot or will not do it, nothing changes.
    """
    if sys.platform != "linux":
        return
    advise = ctypes.CDLL(None, use_errno=True).madvise
    advise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    with open("/proc/self/maps", encoding="ascii", errors="replace") as maps:
        regions = [line.split() for line in maps]
    for span, rights, _, _, inode, *name in regions:
        if rights != "rw-p" or inode != "0" or name not in ([], ["[heap]"]):
            continue
        low, high = (int(end, 16) for end in span.split("-"))
        first, last = -(-low // HUGE_PAGE) * HUGE_PAGE, high // HUGE_PAGE * HUGE_PAGE
        if last > first:
            advise(first, last - first, 25)  # MADV_COLLAPSE


def die_with_parent(parent: int) -> None:
    """Ask the kernel to kill this process when its parent dies (Linux); end at once when that has already happened."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL)  # 1 is PR_SET_PDEATHSIG
    if os.getppid() != parent:
        os._exit(1)
