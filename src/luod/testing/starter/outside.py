"""The test's side of the starter: one process for each Python and uid, started when the first machine boots.

It ends with the process that started it. A machine that it forked is not a child of the test's process; `Started` has
its end.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import signal
import socket
import subprocess
import tempfile
import threading
from collections.abc import Mapping, Sequence
from typing import Final

from luod.errors import MachineError
from luod.linux import Fd
from luod.testing.forked import settings
from luod.testing.interpreter import Interpreter

_PRELOADED: Final = """
luod.emulator.machine.devices luod.emulator.machine.device_config luod.emulator.model.vfio.bus
luod.emulator.trap.devices.devices luod.emulator.trap.devices.memory luod.emulator.trap.devices.opener

luod.testing.started luod.client luod.aio luod.participant luod.liveupdate luod.kexec luod.vfio
luod.ipc.client.creation luod.ipc.client.sessions asyncio ctypes hashlib mmap resource threading typing

luod.ctl.main luod.ctl.admin luod.ctl.findings luod.ctl.next_kernel luod.ctl.progress luod.ctl.workloads
luod.ctl.timeline luod.ctl.nagios rich.box rich.console rich.table rich.text

luod.daemon.main luod.daemon.serve luod.daemon.later luod.daemon.rooms luod.daemon.admin
luod.daemon.store.state_directory luod.ipc.interfaces.admin luod.ipc.interfaces.sessions luod.ipc.interfaces.updates
luod.ipc.server.introspection luod.daemon.preflight.check luod.daemon.preflight.rules luod.daemon.updates.coordinator
luod.daemon.updates.memory_checks luod.daemon.updates.progress luod.image.initrd luod.image.boot_config
luod.image.loaders tomllib
"""
"""Modules that most machines need: those of luoemu with devices, of programs, luoctl and luod.

Any other is imported by the program that needs it.
"""


class StarterEnded(MachineError):
    """The starter has ended, or been killed, before it started the machine."""

    def __init__(self) -> None:
        super().__init__("the process that starts machines has ended")


class Started:
    """A luoemu that the starter forked. The members are those of `subprocess.Popen`."""

    def __init__(self, control: socket.socket) -> None:
        """Takes ownership of `control`. Raises StarterEnded."""
        self._control = control
        data, fds, _, _ = socket.recv_fds(control, 4096, 1)
        if not data:
            control.close()
            raise StarterEnded
        self.pid: int = json.loads(data)["pid"]
        self._pidfd = Fd(fds[0])
        os.set_inheritable(fds[0], False)
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Returns the exit status, or minus the signal, if it has ended; None while it runs."""
        return self._receive(0.0)

    def wait(self, timeout: float | None = None) -> int:
        """Waits for its end. Returns the exit status, or minus the signal.

        Raises subprocess.TimeoutExpired after `timeout` seconds.
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
        if self.returncode is None:
            self._control.settimeout(timeout)
            try:
                data = self._control.recv(4096)  # the one message that is left, whole
            except (BlockingIOError, TimeoutError):
                return None
            # Without one the starter was killed, and no process knows the status.
            self._ended(os.waitstatus_to_exitcode(json.loads(data)["status"]) if data else -signal.SIGKILL)
        return self.returncode

    def _ended(self, status: int) -> None:
        self.returncode = status
        self._control.close()
        self._pidfd.close()


class Starter:
    """The process of one Python and uid."""

    def __init__(self, python: Interpreter, environment: Mapping[str, str]) -> None:
        """Starts it, and does not wait for its imports."""
        self._socket, theirs = socket.socketpair()
        with theirs:
            try:
                self._process = subprocess.Popen(
                    python.module("luod.testing.starter", str(theirs.fileno()), *_PRELOADED.split()),
                    env=environment,
                    cwd="/",
                    user=python.user,
                    group=python.user,
                    extra_groups=None if python.user is None else [],
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                )
            except BaseException:
                self._socket.close()
                raise

    def fileno(self) -> int:
        return self._socket.fileno()

    @property
    def pid(self) -> int:
        return self._process.pid

    def start(
        self, arguments: Sequence[str], environment: Mapping[str, str], agent: Sequence[str], *, channel: int, log: int
    ) -> Started:
        """Starts a luoemu, as the function `start`. Raises StarterEnded."""
        request = {"arguments": list(arguments), "environment": dict(environment), "agent": list(agent)}
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with theirs, tempfile.TemporaryFile() as file:
                file.write(json.dumps(request).encode())
                file.flush()
                socket.send_fds(self._socket, [b"\n"], [channel, log, theirs.fileno(), file.fileno()])
        except (BrokenPipeError, ConnectionResetError):
            ours.close()
            raise StarterEnded from None
        return Started(ours)

    def close(self) -> None:
        """Ends it, and waits for that. Machines run on."""
        self._socket.close()
        self._process.wait()


_starters: dict[tuple[object, ...], Starter] = {}
_lock = threading.Lock()


def starter_for(python: Interpreter, environment: Mapping[str, str], *, instead_of: Starter | None = None) -> Starter:
    """Returns the starter of this Python, its uid, and the settings of Python in `environment`.

    A starter that ends is replaced: `instead_of`.
    """
    key = (os.getpid(), python.executable, python.user, *sorted(settings(environment).items()))
    with _lock:
        if (found := _starters.get(key)) is None or found is instead_of:
            if found is not None:
                found.close()
            elif not _starters:
                atexit.register(_close_all, os.getpid())
            found = _starters[key] = Starter(python, environment)
        return found


def start(
    python: Interpreter,
    environment: Mapping[str, str],
    arguments: Sequence[str],
    agent: Sequence[str],
    *,
    channel: int,
    log: int,
) -> Started:
    """Starts `luoemu run ARGUMENTS` with the agent as its init. The caller keeps `channel` and `log`.

    `agent` are words of the agent's command line. Raises MachineError: no process that starts machines stays.
    """
    starter = starter_for(python, environment)
    try:
        return starter.start(arguments, environment, agent, channel=channel, log=log)
    except StarterEnded:
        another = starter_for(python, environment, instead_of=starter)
        return another.start(arguments, environment, agent, channel=channel, log=log)


def fds() -> set[int]:
    """Returns the fds that this process has open for its starters."""
    return {starter.fileno() for starter in _starters.values()}


def _close_all(owner: int) -> None:
    while os.getpid() == owner and _starters:
        _starters.popitem()[1].close()
