"""Child processes of serve: started before a gate, registered with the supervisor, released, awaited, and killed when
late.

A `Child` is one process. `Children` runs one to its end under a name, by which the next serve finds it and ends it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from luod.daemon.processes import gate
from luod.daemon.store.fd_store import FdStore
from luod.frozen import frozen
from luod.linux import Fd, has_ended, memfd, pid_of
from luod.static import Any, Final, Literal

DYING_SECONDS: Final = 5.0
"""The time for a killed process to end. One in a system call may take longer, and is left alone."""
_REPORT_BYTES: Final = 4096
_NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})


@frozen
class Outcome:
    """The end of a child. `failure` is the reason of a failure; None: its exit status is 0.

    `late`: it took too long, and was killed. `report` is the beginning of its output.
    """

    failure: str | None
    status: int | None
    late: bool
    report: str


class Child:
    """`python -m module arguments…`, the leader of a process group of its own, at its gate.

    The child finds the numbers of `fds` in its environment by their names. Its report is its writes to `output`.
    """

    def __init__(
        self,
        module: str,
        arguments: Sequence[str] = (),
        *,
        fds: Mapping[str, int] = _NOTHING,
        environment: Mapping[str, str] = _NOTHING,
        output: Literal["stdout", "stderr"] = "stdout",
    ) -> None:
        self._report = memfd("luod-report", 0, executable=False)
        report = self._report.fileno()
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", module, *arguments],
                stdin=subprocess.PIPE,
                stdout=report if output == "stdout" else subprocess.DEVNULL,
                stderr=report if output == "stderr" else None,
                env={**os.environ, **environment, **{name: str(fd) for name, fd in fds.items()}},
                pass_fds=tuple(fds.values()),
                start_new_session=True,  # a ^C for luod does not reach it
            )
            self.pidfd = Fd(os.pidfd_open(self._process.pid))
        except OSError:
            self._report.close()
            raise

    def go(self, order: str = "") -> bool:
        """Releases it, with an order as of `gate.lift`. Returns False if it has ended already."""
        assert self._process.stdin is not None
        return gate.lift(self._process.stdin, order)

    async def ended(self, seconds: float) -> bool:
        """Returns whether it has ended. Waits up to `seconds` for it. If a signal has ended it, its group is killed."""
        if not await ended(self.pidfd, seconds):
            return False
        if self._process.returncode is None:
            # Until wait(2) its pid, which names the group, is of no other process.
            how = os.waitid(os.P_PIDFD, self.pidfd.fileno(), os.WEXITED | os.WNOWAIT)
            if how is not None and how.si_code != os.CLD_EXITED:
                self.kill()
            self._process.wait()
        return True

    @property
    def status(self) -> int | None:
        """Returns the exit status, or a negative signal number; None until `ended`."""
        return self._process.returncode

    @property
    def report(self) -> str:
        return os.pread(self._report.fileno(), _REPORT_BYTES, 0).decode("utf-8", "replace").strip()

    def kill(self) -> None:
        """Kills its process group, unless it has ended."""
        if self._process.returncode is None:
            _kill_group(self._process.pid)

    def close(self) -> None:
        """Kills it, unless it has ended, and closes its pidfd and report."""
        self.kill()
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._report.close()
        self.pidfd.close()


class Children:
    """Runs children by name. In a running loop."""

    def __init__(self, fds: FdStore) -> None:
        self._fds = fds

    async def run(self, child: Child, name: str, seconds: float) -> Outcome:
        """Releases `child` once the supervisor has its pidfd under `name`, and waits for its end. Kills it after
        `seconds`.
        """
        try:
            await self._fds.store({name: child.pidfd})
            child.go()
            late = not await child.ended(seconds)
            if late:
                child.kill()
                await child.ended(DYING_SECONDS)
            failure = _failure(child.status, seconds if late else None)
            outcome = Outcome(failure, child.status, late, child.report)
        finally:
            child.close()
        await self._fds.drop(name)
        return outcome

    def left(self, name: str) -> bool:
        """Returns whether a child has this name. It may be of the previous serve."""
        return name in self._fds

    async def end_left(self, name: str) -> None:
        """Kills the child that the previous serve ran under `name`, and waits until it has ended."""
        pidfd = self._fds.get(name)
        if pidfd is None:
            return
        if (pid := pid_of(pidfd)) is not None:
            _kill_group(pid)
        while not await ended(pidfd, DYING_SECONDS):
            pass
        await self._fds.drop(name)


def _failure(status: int | None, late: float | None) -> str | None:
    """Returns why a child with this status failed, as text. `late`: the seconds after which it was killed."""
    if late is not None or status is None:
        return f"it took longer than {late:g} s, and {'cannot be killed' if status is None else 'was ended'}"
    if status < 0:
        return f"it was ended by signal {-status}"
    return f"it ended with status {status}" if status else None


async def ended(pidfd: Fd, seconds: float) -> bool:
    """Returns whether the process has ended. Waits up to `seconds` for its end."""
    return await readable(pidfd, seconds) or has_ended(pidfd)


async def readable(fd: Fd, seconds: float | None = None) -> bool:
    """Waits until `fd` is readable, up to `seconds`; None: without a limit. Returns False after that."""
    loop = asyncio.get_running_loop()
    over = loop.create_future()

    def tell() -> None:
        if not over.done():
            over.set_result(None)

    loop.add_reader(fd, tell)
    try:
        await asyncio.wait_for(over, seconds)
    except TimeoutError:
        return False
    finally:
        loop.remove_reader(fd)
    return True


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
