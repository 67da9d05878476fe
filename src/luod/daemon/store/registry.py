"""The registry: what luod must remember, since the kernel cannot list sessions. Names, owners, the image, the boot.

It is kept twice, each a log (`luod.daemon.store.journal`), so that a change of one session costs the same among a
thousand. One is in a memfd preserved in luod's own session, so it comes along in the jump. The file in the state
directory outlives luod itself, and is the second copy should the first be damaged. What a copy tells, and which is
believed, is `luod.daemon.store.copies`; serve begins with one of them in `luod.daemon.store.recovery`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec

from luod.daemon.log import Log
from luod.daemon.store import journal
from luod.daemon.store.copies import Changes, key
from luod.daemon.store.journal import Slots
from luod.daemon.store.journal_file import Journal
from luod.daemon.store.schema import Departure, Doubt, Held, Image, IncomingRow, OutgoingRow, Owed, Record, Row
from luod.daemon.store.states import IncomingState, OutgoingState, require
from luod.errors import LuodError
from luod.ipc.types.sessions import Direction


class RegistryDamaged(LuodError):
    hint = "sessions are still in the kernel; a program that knows its session's name can retrieve it without luod"


Change = tuple[Row | None, Row | None]
"""What a row was and what it is; None: it is new, or gone."""


class Registry:
    """The record as it is now, and its two copies. Owns them."""

    def __init__(self, record: Record, memory: Slots, file: Journal, log: Log, *, number: int = 0) -> None:
        """`record` stands in both copies as their entry `number`, or, without one, will with the first change."""
        self.watchers: list[Callable[[tuple[Change, ...]], None]] = []
        """Told of each change, with the rows it is about."""
        self.noted: Callable[[Row, str], None] | None = None
        self._record: Record | None = record
        self._rest = msgspec.structs.replace(record, rows=())
        self._rows = {key(row): row for row in record.rows}
        self._number = number
        self._log = log
        self._memory = memory
        self._file = file
        self._file_error = ""
        """The last failure to write the file; "" where it has all that the memory has."""

    @property
    def record(self) -> Record:
        if self._record is None:
            self._record = msgspec.structs.replace(self._rest, rows=tuple(self._rows.values()))
        return self._record

    def row(self, direction: Direction, name: str) -> Row | None:
        return self._rows.get((direction, name))

    def outgoing(self, name: str) -> OutgoingRow | None:
        row = self._rows.get(("outgoing", name))
        return row if isinstance(row, OutgoingRow) else None

    def incoming(self, name: str) -> IncomingRow | None:
        row = self._rows.get(("incoming", name))
        return row if isinstance(row, IncomingRow) else None

    def become(self, row: IncomingRow, state: IncomingState) -> IncomingRow:
        """Changes the state of the session, if it is there still. Returns its row. ImpossibleTransition."""
        now = msgspec.structs.replace(self.incoming(row.name) or row, state=state)
        self.replace(row, now)
        return now

    def replaced(self, row: OutgoingRow) -> None:
        """Another session is in the place of an outgoing one, so what luod forwarded is gone."""
        if row.state is OutgoingState.CARRIED_OVER:
            self.replace(row, msgspec.structs.replace(row, state=OutgoingState.UNDECLARED, kinds=()))

    def carried_over(self, row: IncomingRow) -> None:
        """In one write: the incoming session is no more, the outgoing one is there."""
        times = row.bytes, row.preparing_seconds, row.freezing_seconds
        state = OutgoingState.CARRIED_OVER
        self.replace(row, OutgoingRow(row.base, row.owner, row.generation, *times, row.kinds, state))

    def add(self, row: Row) -> None:
        self._change([(None, row)])

    def remove(self, row: Row) -> None:
        self.replace(row, None)

    def replace(self, row: Row, other: Row | None) -> None:
        """`other` in the place of the row that is there under `row`'s name; None removes it."""
        found = self._rows.get(key(row))
        if found is not None and found != other:
            self._change([(found, other)])

    def change(self, change: Callable[[Row], Row | None]) -> None:
        """Every row as `change` gives it; None removes it. One write, and none where nothing changes."""
        if changes := self._changes(change):
            self._change(changes)

    def _changes(self, change: Callable[[Row], Row | None]) -> list[Change]:
        return [(row, other) for row in self._rows.values() if (other := change(row)) != row]

    def note(self, row: Row, what: str) -> None:
        """Passes on what is in no record: that the session was "retrieved", or as what it is about to end."""
        if self.noted is not None:
            self.noted(row, what)

    def lose(self, row: Row) -> None:
        """Forgets a session that is not there. What else the workload of an incoming one has is torn, unless its guest
        was resumed: a part of a workload is invalid (H12).
        """
        whole = (IncomingState.WAITING, IncomingState.TAKEN, IncomingState.RETRIEVED)

        def without(other: Row) -> Row | None:
            if key(other) == key(row):
                return None
            if isinstance(other, IncomingRow) and row.direction == "incoming" and other.base == row.base:
                return msgspec.structs.replace(other, state=IncomingState.TORN) if other.state in whole else other
            return other

        self.change(without)

    def begin_generation(self) -> int:
        generation = self._rest.generation + 1
        self._set(generation=generation)
        return generation

    def depart(self, departure: Departure, ready: Mapping[str, OutgoingRow]) -> None:
        """The jump comes next. `ready` are the outgoing rows whose participants are ready."""
        changes = self._changes(lambda row: ready.get(row.name, row) if row.direction == "outgoing" else row)
        self._set(changes, departure=departure)

    def stay(self) -> tuple[Row, ...]:
        """The update is over and this kernel goes on: nothing is `ready` any more, and what was made while frozen is
        forgotten (H14). In one write, before anybody may resume (H13). The rows that are gone; their fds are not.
        """

        def without(row: Row) -> Row | None:
            if not isinstance(row, OutgoingRow):
                return row
            if row.ends_with_update:
                return None
            ready = row.state is OutgoingState.READY
            return msgspec.structs.replace(row, state=OutgoingState.DECLARED) if ready else row

        changes = self._changes(without)
        if self._rest.departure is not None or changes:
            self._set(changes, departure=None)
        return tuple(row for row, other in changes if row is not None and other is None)

    def set_doubts(self, doubts: tuple[Doubt, ...]) -> None:
        self._set(doubts=doubts)

    def set_held(self, held: tuple[Held, ...]) -> None:
        self._set(held=held)

    def set_arrived(self, arrived: float) -> None:
        self._set(arrived=arrived)

    def set_owed(self, owed: Owed | None) -> None:
        self._set(owed=owed)

    def set_image(self, image: Image | None) -> None:
        self._set(image=image)

    def _set(self, changes: Iterable[Change] = (), **fields: Any) -> None:
        """Changes what is seldom changed: logs begin anew, with all of it."""
        changes = tuple(changes)
        rows = self._with(changes)
        rest = msgspec.structs.replace(self._rest, **fields)
        whole = self._pack(rest, rows, self._number + 1)
        if not self._memory.begin(whole):
            raise _full(len(whole))
        self._write(lambda: self._file.begin(whole))
        self._become(rest, rows, changes)

    def _change(self, changes: list[Change]) -> None:
        """Changes rows only."""
        rows = self._with(changes)
        number = self._number + 1
        entry = journal.pack(number, msgspec.json.encode(_entry(changes)), whole=False)
        if not self._memory.append(entry):
            whole = self._pack(self._rest, rows, number)
            if not self._memory.begin(whole):
                raise _full(len(whole))

        def write() -> None:
            if not self._file.append(entry):
                self._file.begin(self._pack(self._rest, rows, number))

        self._write(write)
        self._become(self._rest, rows, tuple(changes))

    def _with(self, changes: Iterable[Change]) -> dict[tuple[Direction, str], Row]:
        """Returns the rows after these changes. ImpossibleTransition."""
        rows = dict(self._rows)
        for row, other in changes:
            if row is not None and other is not None:
                require(row.state, other.state)
            if row is not None and (other is None or key(other) != key(row)):
                del rows[key(row)]
            if other is not None:
                rows[key(other)] = other
        return rows

    @staticmethod
    def _pack(rest: Record, rows: dict[tuple[Direction, str], Row], number: int) -> bytes:
        record = msgspec.structs.replace(rest, rows=tuple(rows.values()))
        return journal.pack(number, msgspec.json.encode(record), whole=True)

    def _write(self, write: Callable[[], None]) -> None:
        """Writes to the file. A failure is logged and not raised: the memory has the change, and a full disk must not
        keep a VMM from its session. The log has a line for each change of the reason, not for each failure.
        """
        reason = ""
        try:
            write()
        except OSError as error:
            reason = error.strerror or str(error)
        if reason and reason != self._file_error:
            self._log.error(
                "registry-file",
                path=self._file.path,
                error=reason,
                meaning="changes are in memory only, and are lost if the supervisor dies before the file is writable",
            )
        elif self._file_error and not reason:
            self._log("registry-file-again", path=self._file.path)
        self._file_error = reason

    def _become(self, rest: Record, rows: dict[tuple[Direction, str], Row], changes: tuple[Change, ...]) -> None:
        self._rest, self._rows, self._record = rest, rows, None
        self._number += 1
        for row, other in changes:
            if row is not None and other is not None and row.state != other.state:
                self._log.debug("session", name=other.name, direction=other.direction, was=row.state, state=other.state)
        for watcher in self.watchers:
            watcher(changes)

    async def sync(self) -> None:
        """Before a jump, and before something is owed: the file is on the disk. OSError."""
        begun = None
        while begun != self._file.begun or not self._file.open:
            if not self._file.open:
                self._file.begin(self._pack(self._rest, self._rows, self._number))
            begun = self._file.begun
            await asyncio.to_thread(self._file.syncing())

    def write_file(self) -> None:
        """Begins the file's log with all of the record, as the memory has it: a serve that starts does not know the
        file to be up to date.
        """
        self._write(lambda: self._file.begin(self._pack(self._rest, self._rows, self._number)))

    @property
    def file(self) -> Journal:
        return self._file

    @property
    def file_error(self) -> str:
        """Why the file is behind the memory; "" where it is not."""
        return self._file_error

    def close(self) -> None:
        self._memory.close()
        self._file.close()


def _entry(changes: Iterable[Change]) -> Changes:
    gone = tuple(key(row) for row, other in changes if row is not None and (other is None or key(other) != key(row)))
    return Changes(gone, tuple(other for _row, other in changes if other is not None))


def _full(size: int) -> RegistryDamaged:
    return RegistryDamaged(f"the registry has grown to {size} bytes, which is too large", hint="release sessions")
