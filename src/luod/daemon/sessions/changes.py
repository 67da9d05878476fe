"""Changes of sessions: one of a name at a time, and only in states of luod that allow it.

An update waits until no change runs, after it has entered a state in which no other begins. What is changed is in
`luod.daemon.sessions.service`.
"""

from __future__ import annotations

import asyncio
from weakref import WeakValueDictionary

from luod.ipc.errors import Busy
from luod.static import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from luod.daemon.run_state import Run

    T = TypeVar("T")


class Changes:
    """Made inside a running loop."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._running = 0
        self._still = asyncio.Event()
        self._still.set()
        self._opened = asyncio.Event()
        self._run_changed()
        run.watchers.append(self._run_changed)

    def _run_changed(self) -> None:
        if self._run.may_change():
            self._opened.set()
        else:
            self._opened.clear()

    async def make(self, name: str, change: Coroutine[Any, Any, T], *, frozen: bool = False) -> T:
        """Makes a change of the session `name`. Raises Busy: the state of luod does not allow it.

        `frozen`: a participant creates NAME#GENERATION. The caller must not be cancelled.
        """
        if not self._run.may_change(frozen=frozen):
            change.close()
            raise Busy(message="an update is running", hint="the session is kept; try again when the update has ended")
        return await self.exclusively(name, change)

    async def exclusively(self, name: str, change: Coroutine[Any, Any, T]) -> T:
        """Makes a change in any state, as `make`."""
        self.begin()
        try:
            async with self._locks.setdefault(name, asyncio.Lock()):
                return await change
        finally:
            self.end()

    def begin(self) -> None:
        """Delays `still` until `end`."""
        self._running += 1
        self._still.clear()

    def end(self) -> None:
        self._running -= 1
        if not self._running:
            self._still.set()

    async def still(self) -> None:
        """Waits for the end of running changes, after luod has entered a state in which no other begins."""
        await self._still.wait()

    async def opened(self) -> None:
        """Waits until luod is in a state that allows changes."""
        await self._opened.wait()
