"""The test's side of the starter: one process for each Python and uid, started when the first machine boots.

It ends with the process that started it. A machine that it forked is not a child of the test's process; `Started` has
its end.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import resource
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Final

from luod.errors import MachineError
from luod.frozen import frozen
from luod.linux import LONGEST_POLL, Fd, has_ended
from luod.testing.forked import extends, settings
from luod.testing.interpreter import Interpreter
from luod.testing.preload import Suite, current

_PRELOADED: Final = """
luod.emulator.machine.devices luod.emulator.machine.device_config luod.emulator.model.vfio.bus
luod.emulator.trap.devices.devices luod.emulator.trap.devices.memory luod.emulator.trap.devices.opener encodings.ascii

luod.testing.agent.fork luod.testing.started luod.client luod.aio luod.participant luod.liveupdate
luod.liveupdate.device luod.kexec luod.vfio luod.ipc.client.creation luod.ipc.client.sessions asyncio ctypes hashlib
mmap resource threading typing

luod.ctl.main luod.ctl.nagios rich.box rich.console rich.table rich.text

luod.daemon.main
"""
"""Modules that most machines need: those of luoemu with devices, of programs, luoctl and luod. The starter adds what
`preloaded` names.

Any other is imported by the program that needs it.
"""


_SECONDS: Final = 60.0
"""The time in which a starter must start a luoemu: the first waits for the starter's imports."""
_CLOSING_SECONDS: Final = 10.0
"""The time in which a starter must end when it is closed. It is killed then."""
_LIMITS: Final = tuple(sorted({getattr(resource, name) for name in dir(resource) if name.startswith("RLIMIT_")}))


class StarterEnded(MachineError):
    """The starter has ended, or been killed, before it started the machine."""

    def __init__(self, status: int | None = None) -> None:
        """`status` is its exit status, or minus the signal that killed it; None: it is not known."""
        known = "" if status is None else f" with status {status}" if status >= 0 else f", killed by signal {-status}"
        said = "; its stderr, which is the test's, says why" if status else ""
        super().__init__(f"the process that starts machines has ended{known}{said}")


@frozen
class Order:
    """A luoemu to start: `luoemu run ARGUMENTS -- COMMAND`. The caller owns the fds, and may close them afterwards."""

    arguments: Sequence[str]
    command: Sequence[str]
    """Init. It is forked if it is a program of this Python (`forked.possible`)."""
    environment: Mapping[str, str]
    stdout: int
    stderr: int
    stdin: int | None = None
    """None: /dev/null."""
    channel: int | None = None
    """The agent's. `command` is then what names it in messages, and words of its command line."""
    directory: str = "/"


class Started:
    """A luoemu that the starter forked. The members are those of `subprocess.Popen`."""

    def __init__(self, control: socket.socket, suite: Suite) -> None:
        """Takes ownership of `control`. Raises StarterEnded, and MachineError when the starter does not answer.

        `suite` is what the starter imports before.
        """
        self._control = control
        control.settimeout(_SECONDS)
        try:
            data, fds, _, _ = socket.recv_fds(control, 4096, 1)
        except TimeoutError:
            control.close()
            text = f"the process that starts machines started none within {_SECONDS:.0f} s"
            if suite.modules:
                text += f"; it imports the modules of luod_preload before: {', '.join(suite.modules)}"
            raise MachineError(text) from None
        except BaseException:
            control.close()
            raise
        if not data:
            control.close()
            raise StarterEnded
        self.pid: int = json.loads(data)["pid"]
        self._pidfd = Fd(fds[0])
        os.set_inheritable(fds[0], False)
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Returns the exit status, or minus the signal, if it has ended; None while it runs.

        It is minus SIGKILL for one whose starter was killed before: no process knows its status.
        """
        return self._receive(0.0)

    def wait(self, timeout: float | None = None) -> int:
        """Waits for its end. Returns the exit status, or minus the signal.

        Raises subprocess.TimeoutExpired after `timeout` seconds, or a day if that is shorter.
        """
        status = self._receive(timeout)
        if status is None:
            raise subprocess.TimeoutExpired(["luoemu"], timeout or 0.0)
        return status

    def kill(self) -> None:
        """Sends SIGKILL to it if it runs."""
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd.fileno(), signal.SIGKILL)

    def _receive(self, timeout: float | None) -> int | None:
        if self.returncode is not None:
            return self.returncode
        timeout = None if timeout is None else min(timeout, LONGEST_POLL)
        deadline = None if timeout is None else time.monotonic() + timeout
        self._control.settimeout(timeout)
        try:
            data = self._control.recv(4096)  # the one message that is left, whole
        except (BlockingIOError, TimeoutError):
            return None
        if data:
            self._ended(os.waitstatus_to_exitcode(json.loads(data)["status"]))
        # Without a message the starter was killed. luoemu may run on.
        elif has_ended(self._pidfd, within=None if deadline is None else max(0.0, deadline - time.monotonic())):
            self._ended(-signal.SIGKILL)
        return self.returncode

    def _ended(self, status: int) -> None:
        self.returncode = status
        self._control.close()
        self._pidfd.close()


class Starter:
    """The process of one Python and uid."""

    def __init__(self, python: Interpreter, environment: Mapping[str, str], suite: Suite) -> None:
        """Starts it, and does not wait for its imports."""
        self._suite = suite
        modules = [" ".join(_PRELOADED.split()), *suite.words()]
        self._socket, theirs = socket.socketpair()
        with theirs:
            try:
                self._process = subprocess.Popen(
                    python.module("luod.testing.starter", str(theirs.fileno()), *modules),
                    env=environment,
                    cwd="/",
                    user=python.user,
                    group=python.user,
                    extra_groups=None if python.user is None else [],
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                )
            except BaseException:
                self._socket.close()
                raise

    def fileno(self) -> int:
        return self._socket.fileno()

    @property
    def pid(self) -> int:
        return self._process.pid

    def start(self, order: Order) -> Started:
        """Starts a luoemu. Raises StarterEnded."""
        request = {
            "arguments": list(order.arguments),
            "command": list(order.command),
            "environment": dict(order.environment),
            "directory": order.directory,
            "umask": _umask(),
            "limits": [(limit, resource.getrlimit(limit)) for limit in _LIMITS],
        }
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with theirs, tempfile.TemporaryFile() as file, open(os.devnull, "rb") as null:
                file.write(json.dumps(request).encode())
                file.flush()
                stdin = null.fileno() if order.stdin is None else order.stdin
                fds = [theirs.fileno(), file.fileno(), stdin, order.stdout, order.stderr]
                fds += [] if order.channel is None else [order.channel]
                socket.send_fds(self._socket, [b"\n"], fds)
            return Started(ours, self._suite)
        except (BrokenPipeError, ConnectionResetError, StarterEnded):
            ours.close()
            raise StarterEnded(self._status()) from None

    def _status(self) -> int | None:
        """Returns the exit status of one that has closed its sockets, None if it does not end."""
        try:
            return self._process.wait(_CLOSING_SECONDS)
        except subprocess.TimeoutExpired:
            return None

    def close(self) -> None:
        """Ends it, and waits for that. If machines of this process run, it stays until they have ended."""
        with self._socket:
            if self._stays():
                _staying.append(self._process)
                return
        if self._status() is None:
            self._process.kill()
            self._process.wait()

    def _stays(self) -> bool:
        # A child of this process may have a copy of the socket: closing this one would be no end.
        try:
            self._socket.shutdown(socket.SHUT_WR)
            self._socket.settimeout(_CLOSING_SECONDS)
            return bool(self._socket.recv(1))
        except TimeoutError:
            self._process.kill()
        except OSError:
            pass
        return False


_staying: list[subprocess.Popen[bytes]] = []
"""The processes of starters that were closed, and stay for the machines that run."""
_starters: dict[tuple[object, ...], Starter] = {}
_lock = threading.Lock()


def starter_for(python: Interpreter, environment: Mapping[str, str], *, instead_of: Starter | None = None) -> Starter:
    """Returns the starter of this Python, its uid, the settings of Python in `environment`, the suite of
    `luod.testing.preload`, and the hard limits of this process, which a fork of the starter may be unable to raise.

    A PYTHONPATH that begins with the interpreter's makes no other starter: a fork takes what follows. A starter that
    ends is replaced: `instead_of`.
    """
    path = python.environment["PYTHONPATH"]
    if extends(environment.get("PYTHONPATH", ""), path):
        environment = {**environment, "PYTHONPATH": path}
    hard = [resource.getrlimit(limit)[1] for limit in _LIMITS]
    suite = current()
    key = (os.getpid(), python.executable, python.user, suite, *hard, *sorted(settings(environment).items()))
    with _lock:
        if (found := _starters.get(key)) is None or found is instead_of:
            _staying[:] = [process for process in _staying if process.poll() is None]
            if found is not None:
                del _starters[key]
                found.close()
            elif not _starters:
                atexit.register(_close_all, os.getpid())
            found = _starters[key] = Starter(python, environment, suite)
        return found


def start(python: Interpreter, order: Order) -> Started:
    """Starts a luoemu as `python.user`. Raises MachineError: no process that starts machines stays."""
    starter = starter_for(python, order.environment)
    try:
        return starter.start(order)
    except StarterEnded:
        return starter_for(python, order.environment, instead_of=starter).start(order)


def fds() -> set[int]:
    """Returns the fds that this process has open for its starters."""
    return {starter.fileno() for starter in _starters.values()}


def _close_all(owner: int) -> None:
    while os.getpid() == owner and _starters:
        _starters.popitem()[1].close()


def _umask() -> int:
    """Returns this process's umask. os.umask() would change it for other threads."""
    with open("/proc/self/status", encoding="utf-8", errors="replace") as status:
        return next(int(line.split()[1], 8) for line in status if line.startswith("Umask:"))
