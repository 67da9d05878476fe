"""The registry: luod's record of sessions, their owners and the image, since the kernel cannot list sessions.

It has two copies. Each is a log (`luod.daemon.store.journal`), so the cost of a change does not depend on the number of
sessions. One is a memfd that is preserved in luod's own session. The other is a file in the state directory; it
outlives luod, and is the fallback if the memory is damaged. `luod.daemon.store.copies` decides which copy is used, and
`luod.daemon.store.recovery` begins with it.
"""

from __future__ import annotations

import asyncio

from luod.daemon.store import entries, journal
from luod.daemon.store.entries import key
from luod.daemon.store.schema import IncomingRow, OutgoingRow, Row
from luod.daemon.store.states import IncomingState, OutgoingState, require
from luod.errors import LuodError
from luod.frozen import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any

    from luod.daemon.log import Log
    from luod.daemon.store.entries import Key
    from luod.daemon.store.journal import Slots
    from luod.daemon.store.journal_file import Journal
    from luod.daemon.store.schema import Departure, Doubt, Held, Image, Owed, Record
    from luod.ipc.types.sessions import Direction


class RegistryDamaged(LuodError):
    hint = "sessions are still in the kernel; a program that knows its session's name can retrieve it without luod"


Change = tuple[Row | None, Row | None]
"""A row before and after the change; None before if it is new, None after if it is removed."""


class Registry:
    """The current record and its two copies. Owns them."""

    def __init__(self, record: Record, memory: Slots, file: Journal, log: Log, *, number: int = 0) -> None:
        """`record` is entry `number` of both copies; if `number` is 0, the first change writes it."""
        self.watchers: list[Callable[[tuple[Change, ...]], None]] = []
        """Callbacks for each change of rows."""
        self.noted: Callable[[Row, str], None] | None = None
        self._record: Record | None = record
        self._rest = replace(record, rows=())
        self._rows = {key(row): row for row in record.rows}
        self._number = number
        self._log = log
        self._memory = memory
        self._file = file
        self._file_error = ""
        """The reason why the last write of the file failed; "" if the file is current."""

    @property
    def record(self) -> Record:
        if self._record is None:
            self._record = replace(self._rest, rows=tuple(self._rows.values()))
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
        """Changes the state of the session if it still exists. Returns its row. Raises ImpossibleTransition."""
        now = replace(self.incoming(row.name) or row, state=state)
        self.replace(row, now)
        return now

    def replaced(self, row: OutgoingRow) -> None:
        """Marks a forwarded session as undeclared: a new session has replaced it, without the forwarded files."""
        if row.state is OutgoingState.CARRIED_OVER:
            self.replace(row, replace(row, state=OutgoingState.UNDECLARED, kinds=()))

    def carried_over(self, row: IncomingRow) -> None:
        """Turns the incoming session into an outgoing one, in one write."""
        times = row.bytes, row.preparing_seconds, row.freezing_seconds
        state = OutgoingState.CARRIED_OVER
        self.replace(row, OutgoingRow(row.base, row.owner, row.generation, *times, row.kinds, state))

    def add(self, row: Row) -> None:
        self._change([(None, row)])

    def remove(self, row: Row) -> None:
        self.replace(row, None)

    def replace(self, row: Row, other: Row | None) -> None:
        """Replaces the current row with the name of `row` by `other`; None removes it."""
        found = self._rows.get(key(row))
        if found is not None and found != other:
            self._change([(found, other)])

    def change(self, change: Callable[[Row], Row | None]) -> None:
        """Replaces every row by the result of `change`; None removes it. Makes at most one write."""
        if changes := self._changes(change):
            self._change(changes)

    def _changes(self, change: Callable[[Row], Row | None]) -> list[Change]:
        return [(row, other) for row in self._rows.values() if (other := change(row)) != row]

    def note(self, row: Row, what: str) -> None:
        """Reports an event that is not recorded: a session was "retrieved", or is about to end with outcome `what`."""
        if self.noted is not None:
            self.noted(row, what)

    def lose(self, row: Row) -> None:
        """Removes the row of a lost session. The other incoming sessions of its workload become torn, unless its guest
        was resumed: a partial restore is invalid (H12).
        """
        whole = (IncomingState.WAITING, IncomingState.TAKEN, IncomingState.RETRIEVED)

        def without(other: Row) -> Row | None:
            if key(other) == key(row):
                return None
            if isinstance(other, IncomingRow) and row.direction == "incoming" and other.base == row.base:
                return replace(other, state=IncomingState.TORN) if other.state in whole else other
            return other

        self.change(without)

    def begin_generation(self) -> int:
        generation = self._rest.generation + 1
        self._set(generation=generation)
        return generation

    def depart(self, departure: Departure, ready: Mapping[str, OutgoingRow]) -> None:
        """Records that the kexec is next. `ready` are the outgoing rows of the participants that are ready."""
        changes = self._changes(lambda row: ready.get(row.name, row) if row.direction == "outgoing" else row)
        self._set(changes, departure=departure)

    def stay(self) -> tuple[Row, ...]:
        """Records that this kernel continues after a cancelled update: no session is `ready` now, and those created
        while frozen are removed (H14), in one write before a guest resumes (H13). Returns the removed rows.
        """

        def without(row: Row) -> Row | None:
            if not isinstance(row, OutgoingRow):
                return row
            if row.ends_with_update:
                return None
            ready = row.state is OutgoingState.READY
            return replace(row, state=OutgoingState.DECLARED) if ready else row

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
        """Changes rarely changed fields: both logs are rewritten with the whole record."""
        changes = tuple(changes)
        rows = self._with(changes)
        rest = replace(self._rest, **fields)
        whole = self._pack(rest, rows, self._number + 1)
        if not self._memory.begin(whole):
            raise _full(len(whole))
        self._write(lambda: self._file.begin(whole))
        self._become(rest, rows, changes)

    def _change(self, changes: list[Change]) -> None:
        """Changes rows: both logs get an entry."""
        rows = self._with(changes)
        number = self._number + 1
        entry = journal.pack(number, entries.changes(_merged(changes)), whole=False)
        if not self._memory.append(entry):
            whole = self._pack(self._rest, rows, number)
            if not self._memory.begin(whole):
                raise _full(len(whole))

        def write() -> None:
            if not self._file.append(entry):
                self._file.begin(self._pack(self._rest, rows, number))

        self._write(write)
        self._become(self._rest, rows, tuple(changes))

    def _with(self, changes: Iterable[Change]) -> dict[Key, Row]:
        """Returns the rows after these changes. Raises ImpossibleTransition."""
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
    def _pack(rest: Record, rows: dict[Key, Row], number: int) -> bytes:
        return journal.pack(number, entries.whole(replace(rest, rows=tuple(rows.values()))), whole=True)

    def _write(self, write: Callable[[], None]) -> None:
        """Writes to the file. A failure is logged, not raised: the memory has the change, and a full disk must not
        block a VMM. Repeated failures for the same reason are logged once.
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

    def _become(self, rest: Record, rows: dict[Key, Row], changes: tuple[Change, ...]) -> None:
        self._rest, self._rows, self._record = rest, rows, None
        self._number += 1
        for row, other in changes:
            if row is not None and other is not None and row.state != other.state:
                self._log.debug("session", name=other.name, direction=other.direction, was=row.state, state=other.state)
        for watcher in self.watchers:
            watcher(changes)

    async def sync(self) -> None:
        """Writes the file to the disk, before a kexec or a hook. Raises OSError."""
        begun = None
        while begun != self._file.begun or not self._file.open:
            if not self._file.open:
                self._file.begin(self._pack(self._rest, self._rows, self._number))
            begun = self._file.begun
            await asyncio.to_thread(self._file.syncing())

    def write_file(self) -> None:
        """Rewrites the file with the whole record, at the start of serve: the file may be out of date."""
        self._write(lambda: self._file.begin(self._pack(self._rest, self._rows, self._number)))

    @property
    def file(self) -> Journal:
        return self._file

    @property
    def file_error(self) -> str:
        """Returns why the file is out of date; "" if it is current."""
        return self._file_error

    def close(self) -> None:
        self._memory.close()
        self._file.close()


def _merged(changes: Iterable[Change]) -> dict[Key, Row | None]:
    """Returns the changed rows by their keys; None for a removed one."""
    merged: dict[Key, Row | None] = {}
    for row, other in changes:
        if row is not None:
            merged[key(row)] = None
        if other is not None:
            merged[key(other)] = other
    return merged


def _full(size: int) -> RegistryDamaged:
    return RegistryDamaged(f"the registry has grown to {size} bytes, which is too large", hint="release sessions")
