"""Has writes to the state directory wait while guests are restored: serve answers them though a disk hangs.

The hold begins with serve (`luod.daemon.store.recovery`) and ends when no guest can be restored any more, or none was
for a while: luod cannot know whether a session will ever be claimed. A later claim begins it again.
"""

from __future__ import annotations

import asyncio

from luod.daemon.store.states import WHOLE, IncomingState
from luod.static import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from luod.daemon.run_state import Run
    from luod.daemon.store.registry import Change, Registry
    from luod.daemon.store.schema import Row

_SERVED_SECONDS: Final = 1.0
"""From the change of the last guest's session to the first write: its VMM has the answer by then."""
_QUIET_SECONDS: Final = 60.0
"""The time without a change of an incoming session after which no more guests are awaited."""


class WaitingGuests:
    """Made inside a running loop."""

    def __init__(self, registry: Registry, run: Run) -> None:
        self._hold = registry.file.hold
        self._run = run
        self._loop = asyncio.get_running_loop()
        self._waiting = sum(map(_waits, registry.all_incoming))
        self._changed_at = self._loop.time()
        self._timer: asyncio.TimerHandle | None = None
        registry.watchers.append(self._changed)
        if self._hold.restoring:
            self._wait()

    def stop(self) -> None:
        """Ends the hold for an update, which must have written what it does before it does it."""
        if self._hold.restoring:
            self._hold.end()

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _changed(self, changes: tuple[Change, ...]) -> None:
        incoming = [(row, now) for row, now in changes if row is not None and row.direction == "incoming"]
        if not incoming:
            return
        self._changed_at = self._loop.time()
        self._waiting += sum(_waits(now) - _waits(row) for row, now in incoming)
        claimed = any(now is not None and now.state is IncomingState.RETRIEVED for _row, now in incoming)
        if claimed and not self._hold.holds and not self._run.updating:
            self._hold.begin(restoring=True)
            self._wait()
        elif not self._waiting and self._hold.restoring:
            self._wait()

    def _wait(self) -> None:
        """Ends the hold when it is time for that."""
        self.close()
        left = self._changed_at + (_QUIET_SECONDS if self._waiting else _SERVED_SECONDS) - self._loop.time()
        if left > 0:
            self._timer = self._loop.call_later(left, self._wait)
        elif self._hold.restoring:
            self._hold.end()


def _waits(row: Row | None) -> bool:
    """Returns whether a guest can be restored from the session."""
    return row is not None and row.state in WHOLE
