"""What happens to sessions before the recorder is there: it is kept with its time, in order, until it is replayed."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from time import monotonic

from luod.daemon.log import Log
from luod.daemon.store.journal import Slots
from luod.daemon.store.journal_file import Journal
from luod.daemon.store.registry import Registry
from luod.daemon.store.schema import FORMAT, IncomingRow, Record
from luod.daemon.store.states import IncomingState
from luod.daemon.timeline.earlier import Earlier


def test_events_and_changes_are_replayed_with_their_times(tmp_path: Path) -> None:
    row = IncomingRow("vm", 1000, state=IncomingState.WAITING)
    with closing(Slots.new()) as memory, closing(Journal(str(tmp_path))) as file:
        registry = Registry(Record(FORMAT, 2, "some-boot", (row,), instance="one"), memory, file, Log("test", "error"))
        earlier, began = Earlier(registry), monotonic()
        retrieved = registry.become(row, IncomingState.RETRIEVED)
        registry.note(retrieved, "retrieved")
        registry.remove(retrieved)
        events = list(earlier.replay())
        assert [(event.noted, event.changes) for event in events] == [
            (None, ((row, retrieved),)),
            ((retrieved, "retrieved"), ()),
            (None, ((retrieved, None),)),
        ]
        assert began <= events[0].at <= events[1].at <= events[2].at <= monotonic()
        assert earlier.record.rows == (row,)
        assert not registry.watchers
        assert registry.noted is None
