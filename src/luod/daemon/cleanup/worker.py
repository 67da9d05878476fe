"""Processes of luod's own that work on one session: they retrieve, finish and preserve, so that serve never does.

Such a process waits at its gate (`luod.daemon.processes.gate`) before it does anything, and keep has its pidfd by then.
What it writes to standard output is its report. `admitted` is the process's side.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from luod.daemon.processes import gate
from luod.daemon.store.fd_names import worker_name
from luod.daemon.store.recovery import Holdings
from luod.daemon.store.schema import Row
from luod.daemon.updates.reboot import ended
from luod.errors import LuodError
from luod.linux import Fd, memfd

_REPORT_BYTES: Final = 4096
_DYING_SECONDS: Final = 5.0
"""For a killed process to end. One that is in an ioctl may take longer, and is left alone."""

REFUSED: Final = "it declined"
_REFUSED_STATUS: Final = 64
SESSION_FD: Final = "LUOD_SESSION_FD"
SESSION_NAME: Final = "LUOD_SESSION"


@dataclass(frozen=True)
class Outcome:
    """`failure` is None when the process ended with status 0, otherwise why not, in words; REFUSED when it declined to
    begin. `said` is the begin of what it wrote.
    """

    failure: str | None
    said: str


class Workers:
    """Starts them, one a session at a time, and waits for them. In a running loop."""

    def __init__(self, holdings: Holdings) -> None:
        self._fds = holdings.fds

    def left(self, row: Row) -> bool:
        """Whether the serve before this one had a process at work on the session."""
        return worker_name(row) in self._fds

    async def end_left(self, row: Row) -> None:
        """Ends it, and waits until it has ended."""
        pidfd = self._fds.get(worker_name(row))
        if pidfd is not None:
            _kill(pidfd)
            while not await ended(pidfd, _DYING_SECONDS):
                pass
            await self._fds.drop(worker_name(row))

    async def run(
        self,
        row: Row,
        module: str,
        arguments: Sequence[str],
        fds: Mapping[str, int],
        environment: Mapping[str, str],
        seconds: float,
    ) -> Outcome:
        """Runs `python -m module arguments…` with `fds`, whose numbers it finds in its environment by these names. It
        is killed after `seconds`.
        """
        with memfd("luod-report", 0, executable=False) as report:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", module, *arguments],
                stdin=subprocess.PIPE,
                stdout=report.fileno(),
                env={**os.environ, **environment, **{name: str(fd) for name, fd in fds.items()}},
                pass_fds=tuple(fds.values()),
                start_new_session=True,
            )
            assert process.stdin is not None
            try:
                with Fd(os.pidfd_open(process.pid)) as pidfd:
                    await self._fds.store({worker_name(row): pidfd})
                    failure = await _work(process, pidfd, seconds)
            finally:
                # Without its byte it ends by itself.
                process.stdin.close()
                await self._fds.drop(worker_name(row))
            return Outcome(failure, os.pread(report.fileno(), _REPORT_BYTES, 0).decode("utf-8", "replace").strip())


async def _work(process: subprocess.Popen[bytes], pidfd: Fd, seconds: float) -> str | None:
    """Why it failed, in words."""
    assert process.stdin is not None
    gate.lift(process.stdin)
    if not await ended(pidfd, seconds):
        _kill(pidfd)
        if not await ended(pidfd, _DYING_SECONDS):
            return f"it hung for {seconds:g} s, and cannot be killed"
        process.wait()
        return f"it hung, and was ended after {seconds:g} s"
    status = process.wait()
    if status == _REFUSED_STATUS:
        return REFUSED
    if status < 0:
        return f"it was ended by signal {-status}"
    return f"it ended with status {status}" if status else None


def _kill(pidfd: Fd) -> None:
    try:
        signal.pidfd_send_signal(pidfd.fileno(), signal.SIGKILL)
    except ProcessLookupError:
        return


def refuse(error: LuodError) -> int:
    """Of a process that has changed nothing: says why, and gives the status to end with."""
    print(f"{error} ({error.hint})" if error.hint else error)
    return _REFUSED_STATUS


def admitted() -> bool:
    """Waits until the work may begin. False: it may not, since the serve that asked for it is gone."""
    go = gate.wait()
    # What is retrieved is charged to luod's cgroup: when that is too much, this process is to go and not luod.
    try:
        with open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
            file.write("1000")
    except OSError:
        return go
    return go
