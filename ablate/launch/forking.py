"""The warm process and its servers, seen from inside: what `forkserver` starts.

A server forks ahead: a spare child waits for the next attempt, so that its fork costs CPU time but nobody's patience.
It is made when a slot connects and when an attempt ends, never while one works, and knows nothing of either. An attempt
that has ended well and holds no memory of a GPU is over before the kernel has taken its process apart.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import gc
import importlib
import json
import os
import random  # noqa: F401  see `without_fork_hooks`
import resource
import selectors
import shutil
import signal
import socket
import sys
import threading  # noqa: F401  see `without_fork_hooks`
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NoReturn, TextIO

HUGE_PAGE = 2 << 20
LIBC = ctypes.CDLL(None, use_errno=True)
PRCTL = getattr(LIBC, "prctl", None)
"""Looked up before the forks; None where it is not Linux."""
REPORT, OVER = b'"report":', b'"exited":'
"""How the lines of a child begin; in braces they are what its slot gets."""


def main(setup: dict[str, Any]) -> None:
    """Import, hear what for, then fork a server for each connection until the starter hangs up.

    Runs in the warm process; `setup` and the line that follows over ``control`` are of `forkserver.WarmProcess`.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):  # those reach the attempts by way of the driver
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])  # Ray blocks SIGINT in its workers; attempts start unblocked
    control = socket.socket(fileno=setup["control"])
    listener = socket.socket(fileno=setup["listener"])
    gc.disable()  # imports make half a million objects and no cycles to free: an eighth of their time
    with without_fork_hooks(), warnings.catch_warnings(action="ignore"):  # torch warns of what it does itself
        for module in setup["preload"]:
            with contextlib.suppress(ImportError):
                importlib.import_module(module)
    with control.makefile("rb") as orders:
        line = orders.readline()
    if not line:
        _leave(setup["address"])
    setup |= json.loads(line)
    sys.path[:] = setup["sys_path"]
    if setup["plugins"]:
        with contextlib.suppress(ValueError):
            _load("ablate_core.plugins:load")(setup["plugins"])
    for name, arguments in setup["warm"]:
        with contextlib.suppress(Exception):
            _load(name)(*arguments)
    body = _load(setup["body"])
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # servers are not waited for
    sys.stdout, sys.stderr = _lines(1), _lines(2)  # made once: an attempt only puts its log behind these numbers
    faulthandler.enable(sys.stderr)
    gc.freeze()  # keep the pages of the imports shared after a fork; a collection would take long and find little
    gc.enable()
    if setup["many"]:
        merge_pages()
    parent = os.getpid()
    selector = selectors.DefaultSelector()
    selector.register(control, selectors.EVENT_READ)
    selector.register(listener, selectors.EVENT_READ)
    while True:
        ready = [key.fileobj for key, _ in selector.select()]
        if control in ready:  # nothing more is ever sent: the starter has hung up
            _leave(setup["address"])
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


@contextlib.contextmanager
def without_fork_hooks() -> Iterator[None]:
    """What is imported meanwhile asks in vain to be called whenever this process forks.

    Libraries renew their locks then, lest a thread that the child lacks held one (logging), or let go of what the
    parent has locked (filelock, which does so before it locks anything, too). Here nothing is locked and no second
    thread runs; the calls would be a tenth of what a short attempt costs. `random` and `threading` do need theirs:
    this module imports them, so that they have asked before.
    """
    ask = os.register_at_fork
    os.register_at_fork = lambda **_: None
    try:
        yield
    finally:
        os.register_at_fork = ask


def _leave(address: str) -> NoReturn:
    shutil.rmtree(os.path.dirname(address), ignore_errors=True)
    os._exit(0)  # no interpreter shutdown: extension modules complain about leaks then, in a terminal


def _load(name: str) -> Callable[..., Any]:
    module, _, attribute = name.partition(":")
    loaded: Callable[..., Any] = getattr(importlib.import_module(module), attribute)
    return loaded


class _Child:
    """A forked process, and first of a group of its own: it waits for its `order`, then reports through `read`.

    Attributes:
        order: where the message that it waits for is written; None once it was.
        over: it has said that its work has ended well.
        end: readable once the process has ended; None where the kernel has no such thing. `read` ends later where a
            trainer has forked a process that lives on.
    """

    def __init__(self, pid: int, read: int, order: int) -> None:
        self.pid, self.read = pid, read
        self.end: int | None = None
        if hasattr(os, "pidfd_open"):
            with contextlib.suppress(OSError):
                self.end = os.pidfd_open(pid)
        self.order: int | None = order
        self.tail = b""
        self.over = False

    def send(self, line: bytes) -> None:
        """Raises OSError where it has died waiting."""
        assert self.order is not None
        with open(self.order, "wb", buffering=0) as pipe:
            self.order = None
            while line:
                line = line[pipe.write(line) :]

    def kill(self) -> None:
        """End it, and what it has forked. It is not reaped, so that nobody else has its number."""
        for end in (os.killpg, os.kill):  # it may not have made its group yet
            with contextlib.suppress(ProcessLookupError, PermissionError):
                end(self.pid, signal.SIGKILL)


class _Server:
    """Serves one slot: forks its attempts and passes their reports on."""

    def __init__(self, connection: socket.socket, body: Callable[..., None]) -> None:
        self.connection, self.body = connection, body
        self.selector = selectors.DefaultSelector()
        self.selector.register(connection, selectors.EVENT_READ)
        self.children: dict[int, _Child] = {}  # by what is watched: the spare, the one that works, and those that go
        self.spare: _Child | None = None
        self.running: _Child | None = None
        self.buffer = b""

    def serve(self) -> None:
        try:
            self.spare = self.fork()
            while True:
                for key, _ in self.selector.select():
                    if self.selector.get_map().get(key.fd) is not key:
                        continue  # closed since, and its number may have been given to another
                    child = self.children.get(key.fd)
                    if child is not None:
                        self.from_child(child, ended=key.fd == child.end)
                    elif not self.from_slot():
                        return
        finally:
            for child in {*self.children.values()}:
                child.kill()
                os.waitpid(child.pid, 0)

    def from_slot(self) -> bool:
        try:
            data = self.connection.recv(1 << 20)
        except OSError:
            data = b""
        self.buffer += data
        *lines, self.buffer = self.buffer.split(b"\n")
        for line in lines:
            message = json.loads(line)
            if "run" in message:
                self.start(line + b"\n")
            elif self.running is not None and message["signal"] == signal.SIGKILL:
                self.running.kill()
            elif self.running is not None:
                os.kill(self.running.pid, message["signal"])
        return bool(data)

    def start(self, line: bytes) -> None:
        assert self.running is None
        child, self.spare = self.spare or self.fork(), None
        try:
            child.send(line)
        except OSError:  # somebody killed the spare
            child = self.fork()
            child.send(line)
        self.running = child

    def fork(self) -> _Child:
        (read, write), (order, ours) = os.pipe(), os.pipe()
        server = os.getpid()
        pid = os.fork()
        if pid == 0:
            for inherited in (read, ours, *self.children):
                os.close(inherited)
            self.connection.close()
            self.selector.close()
            _attempt(self.body, order, write, server)
        os.close(write)
        os.close(order)
        child = _Child(pid, read, ours)
        os.set_blocking(read, False)
        for watched in (read, child.end):
            if watched is not None:
                self.children[watched] = child
                self.selector.register(watched, selectors.EVENT_READ)
        return child

    def from_child(self, child: _Child, ended: bool) -> None:
        """Forward the child's reports; `ended`: it has, and there will be no more of them."""
        data = b""
        with contextlib.suppress(BlockingIOError):
            while part := os.read(child.read, 1 << 16):
                data += part
            ended = ended or child.end is None
            if not ended:  # its end is about to be seen
                self.unwatch(child.read)
        self.forward(child, data)
        if ended:
            self.gone(child)

    def unwatch(self, watched: int) -> None:
        if self.children.pop(watched, None) is not None:
            self.selector.unregister(watched)

    def forward(self, child: _Child, data: bytes) -> None:
        *lines, child.tail = (child.tail + data).split(b"\n")
        over = lines and lines[-1].startswith(OVER)
        self.reply(*(b"{" + line + b"}" for line in lines))
        if over and self.running is child:
            self.running, child.over = None, True
            self.spare = self.spare or self.fork()  # the slot is asking for its next work meanwhile

    def gone(self, child: _Child) -> None:
        for watched in (child.read, child.end):
            if watched is not None:
                self.unwatch(watched)
                os.close(watched)
        if child.order is not None:
            os.close(child.order)
        child.kill()  # what it has left behind holds its lock, its memory, a GPU
        _, status, usage = os.wait4(child.pid, 0)
        if child is self.spare:
            self.spare = None
        if child is self.running:
            code = os.waitstatus_to_exitcode(status)
            name = signal.Signals(-code).name if code < 0 else None
            ended = _ended(code if code >= 0 else None, name, usage)
            self.running = None
            self.reply(b"{" + OVER + json.dumps(ended).encode() + b"}")
            self.spare = self.spare or self.fork()

    def reply(self, *lines: bytes) -> None:
        with contextlib.suppress(OSError):  # the slot is gone: the next read ends the server
            self.connection.sendall(b"".join(line + b"\n" for line in lines))


def _ended(code: int | None, name: str | None, usage: resource.struct_rusage) -> dict[str, Any]:
    """What a slot is told of the end of a process."""
    unit = 1 if sys.platform == "darwin" else 1024  # bytes of one ru_maxrss
    cpu, memory = usage.ru_utime + usage.ru_stime, usage.ru_maxrss * unit / 2**20
    return {"code": code, "signal": name, "cpu_seconds": cpu, "peak_mem_mb": memory}


def _attempt(body: Callable[..., None], order: int, write: int, server: int) -> NoReturn:
    """The forked process: from here on everything belongs to one attempt. Never returns into the server's code."""
    code = 1
    try:
        os.setpgid(0, 0)
        die_with_parent(server)
        first_to_go()
        stop = _stop_on_signals()
        with open(order, "rb") as pipe:
            line = pipe.readline()
        if not line:  # nobody will ever need this spare
            os._exit(0)
        message = json.loads(line)
        os.environ.update(message["env"])
        log = os.open(message["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        null = os.open(os.devnull, os.O_RDONLY)
        for target, source in ((0, null), (1, log), (2, log)):
            os.dup2(source, target)
        torch = sys.modules.get("torch")
        if torch is not None and torch.get_num_threads() != message["threads"]:
            torch.set_num_threads(message["threads"])

        def send(report: dict[str, Any]) -> None:
            _write(write, REPORT + json.dumps(report).encode())

        body(message["run"], send, stop)
        code = 0
        if torch is None or not torch.cuda.is_initialized():  # else the next one would find the GPU's memory taken
            sys.stdout.flush()
            sys.stderr.flush()
            _write(write, OVER + json.dumps(_ended(0, None, resource.getrusage(resource.RUSAGE_SELF))).encode())
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)  # no interpreter shutdown: it can hang on threads of math libraries, and costs time


def _lines(number: int) -> TextIO:
    """Text for the file of this number, whichever that will be, line by line."""
    return open(number, "w", buffering=1, closefd=False, encoding="utf-8", errors="replace")


def _write(pipe: int, line: bytes) -> None:
    line += b"\n"
    while line:
        line = line[os.write(pipe, line) :]


def _stop_on_signals() -> Callable[[], bool]:
    """SIGTERM and SIGUSR1 (Slurm's warning) ask for a checkpoint and an end; SIGINT stays ignored, as it was.

    Ctrl-C reaches the whole process group, and the driver decides.
    """
    asked: list[int] = []
    for name in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(name, lambda number, _frame: asked.append(number))
    return lambda: bool(asked)


def merge_pages() -> None:
    """Ask the kernel to hold this process' memory in pages of 2 MiB (Linux 6.1).

    A fork copies the table of pages and its end takes it apart again: with the 100,000 small ones that torch needs both
    take milliseconds. Where the kernel cannot or will not do it, nothing changes.
    """
    if sys.platform != "linux":
        return
    advise = LIBC.madvise
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


def first_to_go() -> None:
    """Where memory runs out, the kernel (Linux) is to end an attempt, and nothing that the others need."""
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "wb", buffering=0) as file:
        file.write(b"1000")


def die_with_parent(parent: int) -> None:
    """Ask the kernel to kill this process when its parent dies (Linux); end at once when that has already happened."""
    if PRCTL is not None:
        PRCTL(1, signal.SIGKILL)  # 1 is PR_SET_PDEATHSIG
    if os.getppid() != parent:
        os._exit(1)
