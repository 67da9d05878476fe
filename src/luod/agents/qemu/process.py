"""A QEMU that runs a guest: its process, its RAM and its monitor."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from functools import partial
from typing import Final

from luod.agents.guests.children import end_with
from luod.agents.guests.deadline import QEMU_SECONDS
from luod.agents.qemu.command_line import Plan
from luod.agents.qemu.qmp import Qmp
from luod.errors import QemuEnded
from luod.linux import HasFileno

_END_SECONDS: Final = 5.0
"""The time for QEMU's end after that of its monitor."""


class Qemu:
    """A running QEMU. The kernel ends it with the program that started it, without which no update could pause it."""

    def __init__(self, process: asyncio.subprocess.Process, monitor: socket.socket) -> None:
        """Takes ownership of both. The monitor is connected by `meet`."""
        self._process = process
        self._monitor = monitor
        self._qmp: Qmp | None = None
        self._changing = asyncio.Lock()
        self._asked_to_end = False

    @property
    def qmp(self) -> Qmp:
        """Returns the monitor, after `meet`."""
        assert self._qmp is not None, "not met"
        return self._qmp

    @property
    def ended(self) -> bool:
        """Returns whether it has ended."""
        return self._process.returncode is not None

    @property
    def pid(self) -> int:
        return self._process.pid

    async def meet(self, *, within: float = QEMU_SECONDS) -> Qmp:
        """Connects the monitor. Raises QemuEnded: QEMU ended, or does not answer."""
        meeting = asyncio.ensure_future(Qmp.connected(self._monitor, within=within))
        ending = asyncio.ensure_future(self._process.wait())
        try:
            await asyncio.wait({meeting, ending}, return_when=asyncio.FIRST_COMPLETED)
            if meeting.done() and meeting.exception() is not None:
                # The monitor of a QEMU that ends is closed just before its end.
                await asyncio.wait({ending}, timeout=_END_SECONDS)
            if meeting.done() and (meeting.exception() is None or not ending.done()):
                self._qmp = meeting.result()
                return self._qmp
        finally:
            for task in (meeting, ending):
                if not task.done():
                    task.cancel()
                    with contextlib.suppress(asyncio.CancelledError, QemuEnded):
                        await task
        raise QemuEnded(f"QEMU ended with {said(self._process.returncode)} before it answered")

    async def ends(self) -> bool:
        """Returns whether it ends, for which it gets a moment: its monitor is closed before its end."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._process.wait(), _END_SECONDS)
        return self.ended

    async def wait(self) -> int:
        """Returns QEMU's exit status; for a signal its number and 128. An exchange of the process is no end."""
        while True:
            process = self._process
            code = await process.wait()
            async with self._changing:
                if process is self._process:
                    return 128 - code if code < 0 else code

    @contextlib.asynccontextmanager
    async def exchange(self) -> AsyncIterator[None]:
        """Lets the block end the process and `become` another QEMU, while `wait` waits on."""
        async with self._changing:
            yield

    def become(self, other: Qemu) -> None:
        """Takes process and monitor of `other`, in whose place this object is from now on. Its own have ended.

        The other is asked to end as well, if this one was meanwhile.
        """
        self._process, self._monitor, self._qmp = other._process, other._monitor, other._qmp
        if self._asked_to_end:
            self.signal(signal.SIGTERM)

    def ask_to_end(self) -> None:
        """Sends SIGTERM, by which QEMU ends itself and the guest. During an exchange it holds for both QEMUs."""
        self._asked_to_end = True
        self.signal(signal.SIGTERM)

    def signal(self, number: int) -> None:
        """Sends a signal. Does nothing after QEMU's end."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)

    async def end(self, *, within: float = 10.0) -> None:
        """Ends QEMU, and with it the guest: by SIGTERM, after `within` seconds by SIGKILL. Idempotent."""
        self.signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(within):
                await self._process.wait()
        except TimeoutError:
            self.signal(signal.SIGKILL)
            await self._process.wait()
        if self._qmp is not None:
            await self._qmp.close()
        else:
            self._monitor.close()


async def started(plan: Plan, ram: HasFileno, *, incoming: bool, channels: Sequence[Mapping[str, object]] = ()) -> Qemu:
    """Starts the QEMU of `plan` on the memfd `ram`, which the caller owns. Raises QemuEnded: it cannot be started.

    `channels` are those of QEMU's migration on which it waits for the guest, where they must be known at its start.
    """
    ours, theirs = socket.socketpair()
    with theirs:
        words = plan.launch(ram.fileno(), theirs.fileno(), incoming=incoming, channels=channels)
        try:
            process = await asyncio.create_subprocess_exec(
                *words, pass_fds=(ram.fileno(), theirs.fileno()), preexec_fn=partial(end_with, os.getpid())
            )
        except OSError as error:
            ours.close()
            raise QemuEnded(f"{words[0]} cannot be started: {error.strerror}") from error
    return Qemu(process, ours)


def said(code: int | None) -> str:
    """Returns an exit status as text."""
    if code is not None and code < 0:
        return f"signal {signal.Signals(-code).name}"
    return f"status {code}"
