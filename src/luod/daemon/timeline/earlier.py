"""Collects what happens to sessions before the timeline's recorder is there, for it to record.

The recorder is not needed to hand out sessions, so it is imported and built after the first of them
(`luod.daemon.rooms`).
"""

from __future__ import annotations

from time import monotonic

from luod.frozen import frozen
from luod.static import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

    from luod.daemon.store.registry import Change, Registry
    from luod.daemon.store.schema import Row


@frozen
class Noted:
    """An event that the registry reported, or its changes, at a time of CLOCK_MONOTONIC."""

    at: float
    noted: tuple[Row, str] | None = None
    changes: tuple[Change, ...] = ()


class Earlier:
    """Follows the registry until `replay`. `record` is the registry's record at the beginning."""

    def __init__(self, registry: Registry) -> None:
        self.registry: Final = registry
        self.record: Final = registry.record
        self._events: list[Noted] = []
        registry.watchers.append(self._changed)
        registry.noted = self._noted

    def replay(self) -> Iterator[Noted]:
        """Yields the events, and follows no more."""
        self.registry.watchers.remove(self._changed)
        self.registry.noted = None
        yield from self._events

    def _noted(self, row: Row, what: str) -> None:
        self._events.append(Noted(monotonic(), (row, what)))

    def _changed(self, changes: tuple[Change, ...]) -> None:
        self._events.append(Noted(monotonic(), changes=changes))
