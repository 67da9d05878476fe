"""serve's side of the process that writes to the disk while guests are paused: orders, and time limits for them.

The process is `luod.daemon.updates.disk`. One that a disk blocks cannot be killed: it ends when the disk answers, and
until then nothing else may write to the state directory (`luod.daemon.store.write_hold`).
"""

from __future__ import annotations

import asyncio
import os
import socket

from luod.daemon.processes.child import Child
from luod.daemon.updates import disk
from luod.errors import Refused
from luod.linux import memfd
from luod.static import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Coroutine

_ANSWER_BYTES: Final = 256
_SYNC: Final = "sync(2)"


class DiskLate(Refused):
    hint = "find out what keeps the disk busy (see `luoctl status` and the kernel's log), then update again"


class DiskProcess:
    """The process, started. `close` ends it. Made inside a running loop."""

    def __init__(self, directory: str) -> None:
        """`directory` is the state directory. Raises OSError: the process cannot be started."""
        self._directory = directory
        self._record = memfd("luod-record", 0, executable=False)
        self._orders, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._orders.setblocking(False)
        try:
            fds = {disk.ORDERS: theirs.fileno(), disk.RECORD: self._record.fileno()}
            self._child = Child("luod.daemon.updates.disk", (directory,), fds=fds)
        except OSError:
            self._close_files()
            raise
        finally:
            theirs.close()
        self.pidfd: Final = self._child.pidfd
        self._turn = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._doing = ""
        """The order that is executed, or was last, in words."""
        self._late = False
        """Whether an order was not executed in time. There are no further ones then."""
        self.written = False
        """Whether the registry's file has what `write` was given."""

    def begin_sync(self) -> None:
        """Has all file systems written back, as `sync`, without a wait. The next order is executed after that."""
        step = self._begin(self._execute(disk.SYNC, _SYNC, None))
        step.add_done_callback(lambda done: done.cancelled() or done.exception())

    async def sync(self, seconds: float | None = None) -> None:
        """Has all file systems written back: sync(2). Raises DiskLate: that takes more than `seconds`; None: no limit.

        Raises Refused: the process has ended.
        """
        await self._begin(self._execute(disk.SYNC, _SYNC, seconds))

    async def write(self, record: bytes, seconds: float) -> None:
        """Has a log written as the registry's file, and to the disk. Raises DiskLate, as `sync`.

        Raises OSError: the file cannot be written. Raises Refused: the process has ended.
        """
        os.ftruncate(self._record.fileno(), len(record))
        os.pwrite(self._record.fileno(), record, 0)
        await self._begin(self._execute(disk.WRITE, f"the write of luod's registry to {self._directory}", seconds))
        self.written = True

    def _begin(self, step: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Runs a step as a task, which `close` ends."""
        task = asyncio.ensure_future(step)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _execute(self, order: bytes, what: str, seconds: float | None) -> None:
        try:
            if self._late:
                raise TimeoutError
            async with asyncio.timeout(seconds), self._turn:
                self._doing = what
                answer = await self._answer(order)
        except TimeoutError:
            self._late = True
            limit = "in time" if seconds is None else f"within {seconds:g} s"
            raise DiskLate(f"{self._doing} did not end {limit}") from None
        number, _, meaning = answer.decode().partition("\t")
        if number != "0":
            raise OSError(int(number), meaning, self._directory)

    async def _answer(self, order: bytes) -> bytes:
        loop = asyncio.get_running_loop()
        try:
            await loop.sock_sendall(self._orders, order)
            answer = await loop.sock_recv(self._orders, _ANSWER_BYTES)
        except ConnectionError:
            answer = b""
        if not answer:
            raise Refused("the process that writes to the disk has ended", hint="luod's log says more; update again")
        return answer

    async def close(self, seconds: float) -> bool:
        """Kills the process, and closes what serve has of it. Returns False if it has not ended after `seconds`: one
        that the disk blocks ends after the system call that it is in. Then nothing is closed, until the next call.
        """
        self._child.kill()
        if not await self._child.ended(seconds):
            return False
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._child.close()
        self._close_files()
        return True

    def _close_files(self) -> None:
        self._orders.close()
        self._record.close()
