"""Asks PID 1 how many files its fd store for luod's unit has, and how many it takes. The supervisor gets the answer.

PID 1 closes what exceeds a FileDescriptorStoreMax= that an operator lowers, and does not tell the unit
(docs/hazards.md, H8). So this asks every 10 s, at a reload, and before a session is created, but never while guests are
paused. Without systemd nothing is asked.
"""

from __future__ import annotations

import asyncio
import contextlib

from luod.daemon.store.fd_store import Counted, SupervisorGone
from luod.daemon.systemd.commands import ask, booted, properties
from luod.static import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from luod.daemon.policy.current import Policy
    from luod.daemon.run_state import Run
    from luod.daemon.sessions.service import SessionService
    from luod.daemon.store.fd_store import FdStore

_EVERY_SECONDS: Final = 10.0
_FRESH_SECONDS: Final = 0.05
"""The age of an answer up to which a session is created without another question: of sessions in one call."""
_PATIENCE_SECONDS: Final = 1.0
"""The longest wait of a Create for the answer."""
_SECONDS: Final = 5.0
"""For a question to systemd."""
_STORED: Final = "NFileDescriptorStore"
_ROOM: Final = "FileDescriptorStoreMax"


class StoreWatch:
    """Needs a running loop. `close` at the end of serve."""

    def __init__(
        self, fds: FdStore, sessions: SessionService, policy: Policy, run: Run, *, systemd: bool | None = None
    ) -> None:
        """`systemd`: whether it is PID 1; None: as the machine says."""
        self._fds = fds
        self._run = run
        self._loop = asyncio.get_running_loop()
        self._unit = ""
        self._asked = float("-inf")
        self._asking: asyncio.Task[None] | None = None
        self._soon = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        if booted() if systemd is None else systemd:
            sessions.before_create = self.before_create
            policy.changed.append(self._soon.set)
            self._task = self._loop.create_task(self._watch())

    def close(self) -> None:
        for task in (self._task, self._asking):
            if task is not None:
                task.cancel()

    async def before_create(self) -> None:
        """Asks unless the last answer is new, and waits for the answer up to a second."""
        if self._loop.time() - self._asked > _FRESH_SECONDS and self._run.may_change():
            await asyncio.wait((self._ask(),), timeout=_PATIENCE_SECONDS)

    async def _watch(self) -> None:
        while True:
            self._soon.clear()
            if self._run.may_change():
                await asyncio.wait((self._ask(),))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._soon.wait(), _EVERY_SECONDS)

    def _ask(self) -> asyncio.Task[None]:
        """Asks PID 1, once at a time."""
        if self._asking is None or self._asking.done():
            self._asking = self._loop.create_task(self._compare())
        return self._asking

    async def _compare(self) -> None:
        with contextlib.suppress(SupervisorGone):  # serve ends
            before = await self._fds.copies()
            if before.size:
                said = await asyncio.to_thread(self._show)
                if (counted := read(said, before.changes)) is not None:
                    await self._fds.copies(counted)
        self._asked = self._loop.time()

    def _show(self) -> str:
        """Returns systemd's answer, "" without one. Blocks: for a thread."""
        self._unit = self._unit or ask(["systemctl", "whoami"], _SECONDS).text.strip()
        return ask(["systemctl", "show", f"--property={_STORED},{_ROOM}", "--", self._unit], _SECONDS).text


def read(said: str, changes: int) -> Counted | None:
    """Returns the numbers in the answer of `systemctl show`, None if it has none. `changes` as of `Counted`."""
    words = next(properties(said), {})
    stored, room = words.get(_STORED, ""), words.get(_ROOM, "")
    return Counted(int(stored), int(room), changes) if stored.isdecimal() and room.isdecimal() else None
