"""A clean process that has imported torch and the trainer, from which every attempt is forked.

Importing torch takes seconds, forking a process that has imported it takes milliseconds, and a crash of the fork
(segfault, out of memory, ``os._exit``) ends that attempt alone. The warm process (`forking`) sets no threads, touches
no CUDA and runs no torch operation, because none of those survive a fork.

    driver or worker --starts--> warm process (`WarmProcess`): imports once, then forks a server for each slot
    slot (`ForkServer`) --Unix socket, JSON lines--> its server --fork--> attempt; reports come back the same way

Nobody outlives the driver. A server that reads end-of-file from its slot (Ray kills its workers when the driver dies)
kills its attempt and ends; so does the warm process when its starter is gone; and the kernel kills the child of a dead
parent (``PR_SET_PDEATHSIG``). No orphan goes on writing.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Self

BOOTSTRAP = "import os, sys, json; sys.path[:] = json.loads(os.environ.pop('ABLATE_SYS_PATH')); "
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
DEVICE_VARIABLES = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")
PRELOAD = (
    "ablate_core.trainer",
    "ablate_core.evaluation",
    "ablate.launch.work",
    "torch.utils.serialization",  # asked for by the first checkpoint, as are the next two by zip and npz files
    "encodings.cp437",
    "importlib.resources.readers",
)
FORWARD_MODE = ("torch._decomp.decompositions_for_jvp", "torch._dynamo")
"""Imported by torch's forward mode when it is first used: a CPU second and a half in every attempt, or once before."""
WARM = (
    "ablate.store.provenance:environment",
    "ablate.store.journal:machine",
    "ablate_core.cpu_kernels:prepare",
    "PIL.Image:preinit",
)
"""Called once before forking, because they cache what every attempt needs (git state, versions of packages)."""


class WarmProcess:
    """Starts the warm process and ends it. It imports at once, and forks once it was told what for (`prepare`).

    Args:
        preload: modules imported before anything is forked.
        threads: cores of one attempt, given to every math library.
        sys_path: import path; ``None``: this process' own.
    """

    def __init__(self, preload: Sequence[str] = (), threads: int = 1, sys_path: list[str] | None = None) -> None:
        self.threads, self._sys_path = threads, sys_path
        self._folder = tempfile.mkdtemp(prefix="ablate-")  # readable by us alone: whoever connects can run code
        self.address = os.path.join(self._folder, "warm")
        control, theirs = socket.socketpair()
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(self.address)
        listener.listen(1024)  # from now on slots may connect; they wait while the imports go on
        passed = {"control": theirs.fileno(), "listener": listener.fileno(), "address": self.address}
        setup = json.dumps({**passed, "preload": [*preload]})
        code = f"{BOOTSTRAP}from ablate.launch.forking import main; main(json.loads({setup!r}))"
        variables = dict.fromkeys(THREAD_VARIABLES, str(threads))
        variables["ABLATE_SYS_PATH"] = json.dumps(_path(sys_path))
        with theirs, listener:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", code],
                pass_fds=[theirs.fileno(), listener.fileno()],
                env={**os.environ, **variables},
                stdin=subprocess.DEVNULL,
            )
        self._control: socket.socket | None = control
        self._idle = True

    def prepare(
        self,
        body: str,
        warm: Sequence[tuple[str, Sequence[Any]]] = (),
        plugins: Iterable[str] = (),
        sys_path: list[str] | None = None,
        many: bool = False,
    ) -> Self:
        """Say what is to be done in forks, once; slots that have connected already wait for it.

        Args:
            body: ``module:function`` called in a fork with the task; it takes ``(task, send, should_stop)``.
            warm: ``module:function``s and their arguments, called before anything is forked, to fill their caches.
            plugins: loaded before those; one that cannot be loaded says so in each attempt.
            sys_path: import path from here on; ``None``: the one given before, or this process' own as it is now.
            many: hundreds of forks are to come: a CPU second is spent once on making each of them cheaper.
        """
        path = _path(self._sys_path if sys_path is None else sys_path)
        loads = {"body": body, "sys_path": path, "warm": [*warm], "plugins": [*plugins], "many": many}
        with contextlib.suppress(OSError):  # it is gone: the first slot that wants it will say so
            if self._control is not None:
                self._idle = False
                self._control.sendall(json.dumps(loads).encode() + b"\n")
        return self

    @property
    def pid(self) -> int:
        return self._process.pid

    def close(self) -> None:
        """End the warm process, its servers and their attempts."""
        if self._control is None:
            return
        self._control.close()
        self._control = None
        if self._idle:  # it is importing, and has nobody to end
            self._process.kill()
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


def _path(given: list[str] | None) -> list[str]:
    """An import path that means the same in another folder; None: that of this process."""
    return [part or os.getcwd() for part in (sys.path if given is None else given)]


def warm_process(
    threads: int,
    plugins: Iterable[str] = (),
    sys_path: list[str] | None = None,
    many: bool = False,
    ahead: Sequence[dict[str, Any]] = (),
    modules: Sequence[str] = (),
    begun: WarmProcess | None = None,
) -> WarmProcess:
    """The warm process that attempts at trials are forked from.

    Args:
        threads, plugins, sys_path, many: as `WarmProcess` and its `prepare`.
        ahead: configs of trials whose data and metrics are loaded before anything is forked.
        modules: imported beside `PRELOAD` where that is possible: where a trainer of one's own is.
        begun: one that was started before any of this was known, by `begin_warm_process`; it is taken over. It must be
            for as many threads.
    """
    calls: list[tuple[str, Sequence[Any]]] = [("importlib:import_module", (module,)) for module in modules]
    calls += [*((name, ()) for name in WARM), ("ablate_core.preparation:load_ahead", (list(ahead),))]
    process = begun or begin_warm_process(threads, sys_path)
    return process.prepare("ablate.launch.work:forked_work", calls, plugins, sys_path, many)


def begin_warm_process(threads: int, sys_path: list[str] | None = None) -> WarmProcess:
    """One that imports what every attempt needs, and waits for `warm_process`."""
    return WarmProcess(PRELOAD, threads, sys_path)
