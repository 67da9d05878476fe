"""Which process writes to the disk in an update: serve, or from the freezing on a process that serve need not wait for.

A disk that hangs blocks a writer for as long as it likes. So serve writes nothing from `freeze` until participants were
told to resume (`luod.daemon.store.write_hold`), the other process writes what the kexec needs, within time limits, and
serve does not write before that process has ended. The next serve continues that: the supervisor has its pidfd.
"""

from __future__ import annotations

import asyncio
import contextlib

from luod.daemon.processes.child import DYING_SECONDS, ended
from luod.daemon.store.fd_names import DISK
from luod.daemon.updates.disk_process import DiskProcess
from luod.errors import Refused
from luod.static import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from luod.daemon.log import Log
    from luod.daemon.store.recovery import Holdings
    from luod.daemon.updates.waiting_guests import WaitingGuests
    from luod.ipc.types.phases import Way

_RECORD_SECONDS: Final = 5.0
"""The limit for the registry to be on the disk before the kexec."""
_SYNC_SECONDS: Final = 10.0
"""The limit for the last sync(2). Most was written before, while guests ran and while they were being paused."""
_TAKE_BACK_SECONDS: Final = 1.0
"""The limit for the registry to be on the disk after the kernel refused the kexec, before guests resume."""
_END_SECONDS: Final = 1.0
"""The wait for the end of the process. One that the disk blocks takes longer."""


class DiskWrites:
    """Made inside a running loop."""

    def __init__(self, holdings: Holdings, guests: WaitingGuests, log: Log) -> None:
        self._registry = holdings.registry
        self._hold = holdings.registry.file.hold
        self._directory = holdings.registry.file.directory
        self._fds = holdings.fds
        self._guests = guests
        self._log = log
        self._process: DiskProcess | None = None
        self._waiting: asyncio.Task[None] | None = None
        """Waits for the end of the process of an update that is over."""

    async def require_free(self) -> None:
        """Has serve write, also while guests wait for their sessions. Raises Refused: the process of an earlier update
        has not ended, and does not in a moment.
        """
        self._guests.stop()
        if self._waiting is not None:
            await asyncio.wait((self._waiting,), timeout=_END_SECONDS)
        if self._hold.holds:
            raise Refused(
                message=self._hold.why or "a write of the previous update has not ended",
                hint="find out what keeps the disk busy, then update again",
            )

    async def begin(self) -> None:
        """Starts the process, and has it write most of the data while guests run: the rest is written later (H16).

        It has no time limit. Raises Refused, OSError: the process cannot be started, or has ended.
        """
        self._process = DiskProcess(self._directory)
        await self._fds.store({DISK: self._process.pidfd})
        await self._process.sync()

    def freeze(self) -> None:
        """Ends the writes of serve, right before participants are told to freeze."""
        self._hold.begin()
        if self._process is not None:
            # While guests are being paused, so that less is left for the sync afterwards.
            self._process.begin_sync()

    async def before_kexec(self, way: Way) -> None:
        """Has the registry written as it is, and all else. Raises DiskLate, Refused, OSError: no kexec may follow."""
        assert self._process is not None
        await self._process.write(self._registry.packed(), _RECORD_SECONDS)
        if way == "direct":  # systemd writes back when it unmounts (H16)
            await self._process.sync(_SYNC_SECONDS)

    async def take_back(self) -> None:
        """Has the registry written as it is after the kernel refused the kexec. As far as the disk allows it, no copy
        has the marks of the kexec when a guest resumes (H13).
        """
        if self._process is not None and self._process.written:
            with contextlib.suppress(Refused, OSError):  # serve writes it again
                await self._process.write(self._registry.packed(), _TAKE_BACK_SECONDS)

    async def end(self) -> None:
        """Has serve write again, now that participants were told to resume; or, if the disk blocks the process, when
        that has ended: serve would be blocked too.
        """
        if self._process is None or await self._process.close(_END_SECONDS):
            await self._free()
            return
        self._hold.begin(
            f"a write to {self._directory}, or sync(2), has not ended since the last update: a disk hangs, or is slow"
        )
        self._log.error("disk-hangs", path=self._directory, meaning="changes of sessions are not on the disk")
        self._waiting = asyncio.ensure_future(self._await_end(self._process))

    async def _await_end(self, process: DiskProcess) -> None:
        while not await process.close(DYING_SECONDS):
            pass
        self._log("disk-again", path=self._directory)
        await self._free()

    def take_over(self) -> None:
        """Has serve write when the process of the previous serve has ended. It ends after its present order."""
        if self._hold.holds and not self._hold.restoring:
            self._waiting = asyncio.ensure_future(self._await_earlier())

    async def _await_earlier(self) -> None:
        while DISK in self._fds and not await ended(self._fds[DISK], DYING_SECONDS):
            pass
        await self._free()

    async def _free(self) -> None:
        self._process = self._waiting = None
        if DISK in self._fds:
            await self._fds.drop(DISK)
        self._hold.end()
