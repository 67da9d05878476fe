"""Has writes to the state directory wait while guests are restored: serve answers their VMMs though a disk hangs.

The hold begins with serve (`luod.daemon.store.recovery`). It ends when no incoming session is left: until then a VMM
may need an answer, also after its guest has resumed. It ends as well when no incoming session has changed for a while:
luod cannot know whether one will ever be claimed. A later change of one begins the hold again.
"""

from __future__ import annotations

import asyncio

from luod.static import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from luod.daemon.run_state import Run
    from luod.daemon.store.registry import Change, Registry

_ANSWERED_SECONDS: Final = 1.0
"""From the end of the last incoming session to the first write: its VMM has the answer by then."""
_QUIET_SECONDS: Final = 60.0
"""The time without a change of an incoming session after which no VMM is awaited any more."""


class WaitingGuests:
    """Made inside a running loop."""

    def __init__(self, registry: Registry, run: Run) -> None:
        self._registry = registry
        self._hold = registry.file.hold
        self._run = run
        self._loop = asyncio.get_running_loop()
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
        if all(row is None or row.direction == "outgoing" for row, _now in changes):
            return
        self._changed_at = self._loop.time()
        if not self._registry.any_incoming:
            self._wait()
        elif not (self._hold.holds or self._run.updating):
            self._hold.begin(restoring=True)
            self._wait()

    def _wait(self) -> None:
        """Ends the hold when it is time for that."""
        self.close()
        limit = _QUIET_SECONDS if self._registry.any_incoming else _ANSWERED_SECONDS
        left = self._changed_at + limit - self._loop.time()
        if left > 0:
            self._timer = self._loop.call_later(left, self._wait)
        else:
            self.stop()
