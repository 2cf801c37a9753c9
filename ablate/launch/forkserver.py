"""A clean process that has imported torch and the trainer, and forks one fresh process per attempt.

Importing torch takes seconds, forking a process that has imported it takes milliseconds, and a crash of the fork
(segfault, out of memory, ``os._exit``) ends that attempt alone. The server sets no threads, touches no CUDA and runs no
torch operation, because none of those survive a fork.

Nobody outlives the driver: when Ray kills a worker, the server reads end-of-file on its socket, kills its child and
ends; when the server itself is killed, the kernel kills the child (``PR_SET_PDEATHSIG``): no orphan goes on writing.

    worker (`ForkServer`) --socket, JSON lines--> server (`main`) --fork--> attempt; its reports come back the same way
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
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

BOOTSTRAP = "import os, sys, json; sys.path[:] = json.loads(os.environ.pop('ABLATE_SYS_PATH')); "
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


class ForkServer:
    """The worker's end. Not thread-safe; one attempt at a time.

    Args:
        body: ``module:function`` called in the fork with the task; it takes ``(task, send, should_stop)``.
        preload: modules the server imports before it forks.
        warm: ``module:function``s without arguments that it calls before it forks, to fill their caches.
        threads: cores of one attempt, given to every math library.
        sys_path: import path of the server; ``None``: this process' own.
    """

    def __init__(
        self,
        body: str,
        preload: list[str],
        warm: list[str] | None = None,
        threads: int = 1,
        sys_path: list[str] | None = None,
    ) -> None:
        self._setup = {"body": body, "preload": preload, "warm": warm or []}
        self._threads = threads
        self._sys_path = list(sys.path if sys_path is None else sys_path)
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._buffer = b""

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Start the server; returns at once, the imports go on in the background."""
        if self._process is not None:
            return
        ours, theirs = socket.socketpair()
        setup = json.dumps({"fd": theirs.fileno(), **self._setup})
        code = f"{BOOTSTRAP}from ablate.launch.forkserver import main; main(json.loads({setup!r}))"
        threads = dict.fromkeys(_THREAD_VARIABLES, str(self._threads))
        environment = {**os.environ, **threads, "ABLATE_SYS_PATH": json.dumps(self._sys_path)}
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", code],
                pass_fds=[theirs.fileno()],
                env=environment,
                stdin=subprocess.DEVNULL,
            )
        self._socket, self._buffer = ours, b""

    def run(self, task: dict[str, Any], log: str) -> None:
        """Fork an attempt at `task`, its output appended to the file `log`."""
        self.start()
        self._send({"run": task, "log": log, "threads": self._threads})

    def stop(self) -> None:
        """Ask the running attempt to checkpoint and end (SIGTERM)."""
        self._send({"signal": int(signal.SIGTERM)})

    def kill(self) -> None:
        """Kill the running attempt."""
        self._send({"signal": int(signal.SIGKILL)})

    def _send(self, message: dict[str, Any]) -> None:
        assert self._socket is not None
        with contextlib.suppress(OSError):  # a dead server shows as end-of-file in `poll`
            self._socket.sendall(json.dumps(message).encode() + b"\n")

    def poll(self, timeout: float) -> Iterator[dict[str, Any]]:
        """Messages that arrive within `timeout` seconds; ends early after the first batch.

        Yields:
            ``{"report": ...}`` sent by the attempt, and last ``{"exited": {"code": int | None, "signal": name | None,
            "cpu_seconds": float, "peak_mem_mb": float}}``. A dead server counts as an exited attempt.
        """
        assert self._socket is not None
        self._socket.settimeout(max(timeout, 1e-3))
        try:
            data = self._socket.recv(1 << 16)
        except TimeoutError:
            return
        except OSError:
            data = b""
        if not data:
            code = self._process.wait() if self._process else None
            self.close()
            yield {"exited": {**_exit(code), "cpu_seconds": 0.0, "peak_mem_mb": 0.0, "server": True}}
            return
        self._buffer += data
        *lines, self._buffer = self._buffer.split(b"\n")
        yield from map(json.loads, lines)

    def close(self) -> None:
        """End the server and whatever it runs."""
        if self._socket is not None:
            self._socket.close()
        if self._process is not None:
            try:
                self._process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._process = self._socket = None


def _exit(code: int | None) -> dict[str, Any]:
    """A return code as Popen gives it (negative: a signal) in words."""
    if code is not None and code < 0:
        return {"code": None, "signal": signal.Signals(-code).name}
    return {"code": code, "signal": None}


# --- the server process


def main(setup: dict[str, Any]) -> None:
    """Serve until the worker hangs up. Runs in the server process."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):  # those reach the attempts by way of the driver
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])  # Ray blocks SIGINT in its workers; attempts start unblocked
    connection = socket.socket(fileno=setup["fd"])
    for module in setup["preload"]:
        with contextlib.suppress(ImportError):  # a plug-in that does not import fails the attempt, with its traceback
            importlib.import_module(module)
    for name in setup["warm"]:
        with contextlib.suppress(Exception):
            _load(name)()
    body = _load(setup["body"])
    gc.collect()
    gc.freeze()  # keep the pages of the imports shared after a fork
    _Server(connection, body).serve()


def _load(name: str) -> Callable[..., Any]:
    module, _, attribute = name.partition(":")
    loaded: Callable[..., Any] = getattr(importlib.import_module(module), attribute)
    return loaded


class _Server:
    def __init__(self, connection: socket.socket, body: Callable[..., None]) -> None:
        self.connection, self.body = connection, body
        self.selector = selectors.DefaultSelector()
        self.selector.register(connection, selectors.EVENT_READ, "worker")
        self.child: int | None = None
        self.reports = b""
        self.buffer = b""

    def serve(self) -> None:
        try:
            while True:
                for key, _ in self.selector.select():
                    if not (self.from_worker() if key.data == "worker" else self.from_child(key.fd)):
                        return
        finally:
            if self.child is not None:
                os.kill(self.child, signal.SIGKILL)
                os.waitpid(self.child, 0)

    def from_worker(self) -> bool:
        data = self.connection.recv(1 << 20)
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
        ended = _exit(os.waitstatus_to_exitcode(status)) | {
            "cpu_seconds": usage.ru_utime + usage.ru_stime,
            "peak_mem_mb": usage.ru_maxrss * unit / 2**20,
        }
        self.reply(json.dumps({"exited": ended}).encode())
        return True

    def reply(self, *lines: bytes) -> None:
        with contextlib.suppress(OSError):  # the worker is gone: the next read ends the server
            self.connection.sendall(b"".join(line + b"\n" for line in lines))


def _attempt(body: Callable[..., None], message: dict[str, Any], write: int, server: int) -> NoReturn:
    """The forked process: from here on everything belongs to one attempt. Never returns into the server's code."""
    code = 1
    try:
        die_with_parent(server)
        stop = _stop_on_signals()
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


def die_with_parent(parent: int) -> None:
    """Ask the kernel to kill this process when its parent dies (Linux); end at once when that has already happened."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL)  # 1 is PR_SET_PDEATHSIG
    if os.getppid() != parent:
        os._exit(1)
