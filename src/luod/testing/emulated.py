"""The emulated machine, `luoemu`, as a `Machine`: a process that the starter forked, driven over a socket pair.

The socket outlives the kexec, since luoemu passes inheritable fds to init in every boot. The fixtures of
`luod.testing.plugin` make one; without pytest it is made directly.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

from luod.errors import MachineEnded, MachineError, MachineUnavailable
from luod.linux import Fd, has_ended
from luod.testing.channel import Channel
from luod.testing.interpreter import Interpreter, needed_interpreter, runs
from luod.testing.machine import TIMEOUT, Machine, describe
from luod.testing.scratch import Scratch
from luod.testing.starter.outside import Order, start

_NAMESPACES: Final = ("mnt", "net", "pid")
_LAST_PROCESSES: Final = 10.0
"""Seconds in which the last process of a machine must end after luoemu."""


class LuoemuProcess(Protocol):
    """luoemu's process. The members are those of `subprocess.Popen`."""

    pid: int
    returncode: int | Any

    def poll(self) -> int | None: ...

    def wait(self, timeout: float | None = None) -> int: ...

    def kill(self) -> None: ...


class EmulatedMachine(Machine):
    """`luoemu run`, with the agent as its init. It has booted when the constructor returns."""

    def __init__(
        self,
        *,
        profile: str = "mainline",
        user: int | None = None,
        arguments: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        timeout: float = TIMEOUT,
    ) -> None:
        """Boots a machine of `profile`.

        `user` is the uid that runs luoemu itself (which then needs user namespaces); only root may choose it.
        `arguments` are passed to `luoemu run`. `env` is added to the environment of luoemu and so of init. `timeout` is
        the time limit of a request in seconds. Raises MachineUnavailable: this process may not choose `user`, or that
        uid has no Python that it may run, or may not make namespaces on this host. Raises MachineEnded: it did not boot
        for another reason; the message has luoemu's own.
        """
        python = needed_interpreter(user)
        # A file, not a pipe: the machine must not wait for a reader.
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed in _shut_down
        self._outputs = Scratch("luod-machine-")
        if user is not None:
            os.chown(self._outputs.path, user, user)
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                self._process = self._start(
                    python,
                    theirs.fileno(),
                    ["--profile", profile, *arguments],
                    {**os.environ, **python.environment, **(env or {})},
                )
            except BaseException:
                ours.close()
                self._log.close()
                self._outputs.remove()
                raise
        self.pid = self._process.pid
        """luoemu's process id, on the host."""
        self._namespaces = HeldNamespaces()
        super().__init__(Channel(ours), timeout=timeout)
        self.user = user
        try:
            self._boot_up()
        except BaseException as error:
            log = self.log().strip()
            with contextlib.suppress(MachineError):
                self.close()
            if isinstance(error, MachineEnded) and not may_make_namespaces(python, user):
                raise MachineUnavailable(log) from None
            raise

    def _start(
        self, python: Interpreter, channel: int, arguments: Sequence[str], environment: Mapping[str, str]
    ) -> LuoemuProcess:
        """Starts luoemu. `channel` is the agent's fd, `arguments` are for `luoemu run`."""
        agent = ["luod.testing.agent", "--outputs", str(self._outputs.path)]
        log = self._log.fileno()
        return start(python, Order(arguments, agent, environment, stdout=log, stderr=log, channel=channel))

    @property
    def returncode(self) -> int | None:
        """Returns luoemu's exit status, None while it runs."""
        return self._process.poll()

    def log(self) -> str:
        if self._log.closed:
            return ""
        size = os.fstat(self._log.fileno()).st_size
        return os.pread(self._log.fileno(), size, 0).decode("utf-8", "replace")

    def _why_ended(self) -> str:
        # Its end of the socket is closed: it has ended or is ending.
        if self._ended_within(self._conversation.timeout):
            return f"luoemu ended with {describe(self._process.wait())}"
        return "luoemu closed its end of the channel and runs on"

    def close(self) -> None:
        try:
            super().close()
        finally:
            self._outputs.remove()

    def _shut_down(self, patience: float) -> None:
        try:
            if not self._ended_within(patience):
                raise self._did_not_end("luoemu", patience)
            if left := self._namespaces.outlived_by(_LAST_PROCESSES):
                raise MachineError(self._conversation.failure("close", f"it left processes behind: {left}"))
        finally:
            try:
                self._process.kill()
                self._process.wait()
            finally:
                self._namespaces.close()
                self._log.close()

    def _booted(self, hello: Mapping[str, Any]) -> None:
        self._namespaces.hold(hello["namespaces"])

    def _ended_within(self, seconds: float) -> bool:
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True


class HeldNamespaces:
    """The namespaces of a machine's boots, held so that their ids are not reused.

    Only then does an id identify them.
    """

    def __init__(self) -> None:
        self._fds: dict[str, int] = {}

    def hold(self, names: Mapping[str, str]) -> None:
        """Holds the namespaces of one boot, {"pid": "pid:[4026531836]", …}, while its init is alive."""
        strange = {kind: name for kind, name in names.items() if name not in self._fds and name != _own(kind)}
        for process in _processes():
            if not strange:
                return
            for kind, name in list(strange.items()):
                with contextlib.suppress(OSError):
                    fd = os.open(_namespace(process, kind), os.O_RDONLY | os.O_CLOEXEC)
                    # Read from the fd: the process may have ended meanwhile.
                    if os.fstat(fd).st_ino == int(name.partition("[")[2].rstrip("]")):
                        self._fds[name] = fd
                        del strange[kind]
                    else:
                        os.close(fd)

    def processes(self) -> list[int]:
        """Returns the processes in one of the namespaces."""
        found = []
        for process in _processes():
            with contextlib.suppress(OSError):
                if any(os.readlink(_namespace(process, kind)) in self._fds for kind in _NAMESPACES):
                    found.append(process)
        return found

    def outlived_by(self, seconds: float) -> list[int]:
        """Returns the processes that are still there after that time.

        A supervisor that was killed ends its machine too, but does not wait for that.
        """
        deadline = time.monotonic() + seconds
        while (left := self.processes()) and (remaining := deadline - time.monotonic()) > 0:
            with contextlib.suppress(ProcessLookupError):
                _ends_within(left[0], remaining)
        return left

    def close(self) -> None:
        """Releases them. Idempotent."""
        while self._fds:
            os.close(self._fds.popitem()[1])


def may_make_namespaces(python: Interpreter, user: int | None) -> bool:
    """Returns whether this host gives `user` the namespaces that every machine needs."""
    script = "from luod.emulator.machine import namespaces; namespaces.enter(share_network=False)"
    return runs([python.executable, "-c", script], user, python.environment)


def _ends_within(pid: int, seconds: float) -> bool:
    """Returns whether a process ends within the time. Raises ProcessLookupError when it has been reaped before."""
    with Fd(os.pidfd_open(pid)) as pidfd:
        return has_ended(pidfd, within=seconds)


def _processes() -> list[int]:
    """Returns the processes of this host. The newest, of which a machine is likely to be one, come first."""
    return sorted((int(name) for name in os.listdir("/proc") if name.isdecimal()), reverse=True)


def _namespace(process: int | str, kind: str) -> str:
    return f"/proc/{process}/ns/{kind}"


def _own(kind: str) -> str:
    return os.readlink(_namespace("self", kind))
