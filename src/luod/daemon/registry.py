"""The registry: what luod must remember, since the kernel cannot list sessions. Names, owners, the image, the boot.

It is kept twice, each a log (`luod.daemon.journal`), so that a change of one session costs the same among a thousand.
One is in a memfd preserved in luod's own session, so it comes along in the jump. The file in the state directory
outlives luod itself, and is the second copy should the first be damaged. Who begins with which is
`luod.daemon.takeover`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from luod.daemon import journal
from luod.daemon.journal import Journal, Slots
from luod.daemon.log import Log
from luod.daemon.record import (
    FORMAT,
    Departure,
    Direction,
    Held,
    Image,
    Owed,
    Record,
    Row,
    ends_with_update,
    workload,
)
from luod.errors import LuodError


class RegistryDamaged(LuodError):
    hint = "sessions are still in the kernel; a program that knows its session's name can retrieve it without luod"


class _Changes(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """An entry of the log: rows that are gone, by direction and name, and those that are new or other than before."""

    gone: tuple[tuple[Direction, str], ...] = ()
    rows: tuple[Row, ...] = ()


def replay(log: journal.Log | None) -> Record | None:
    """What a log tells; None when nothing, or in a format we do not know."""
    if log is None:
        return None
    try:
        record = msgspec.json.decode(log.whole, type=Record)
        if record.format != FORMAT:
            return None
        rows = {_key(row): row for row in record.rows}
        for body in log.changes:
            changes = msgspec.json.decode(body, type=_Changes)
            for key in changes.gone:
                rows.pop(key, None)
            rows |= {_key(row): row for row in changes.rows}
    except msgspec.DecodeError:
        return None
    return msgspec.structs.replace(record, rows=tuple(rows.values()))


def _key(row: Row) -> tuple[Direction, str]:
    return row.direction, row.name


def read(memory: Slots, file: Journal, boot: str | None, log: Log) -> tuple[Record, int]:
    """The record and the number of its entry: what the memory holds, or the file, where that knows more, which is where
    the memory is damaged. `boot`, a boot_id: of which boot the file must tell where the memory tells nothing.
    RegistryDamaged.
    """
    held, kept = memory.read(), file.read()
    here, there = replay(held), replay(kept)
    if held is not None and here is not None:
        boot = here.boot_id
        if kept is None or there is None or there.boot_id != boot or kept.number <= held.number:
            return here, held.number
    if kept is None or there is None or (boot is not None and there.boot_id != boot):
        raise RegistryDamaged("the registry in luod's session cannot be read")
    log.error("registry-damaged", reason="the memory is damaged", instead="the file")
    memory.forget()
    return there, kept.number


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
        self._rows = {_key(row): row for row in record.rows}
        self._number = number
        self._log = log
        self._memory = memory
        self._file = file

    @property
    def record(self) -> Record:
        if self._record is None:
            self._record = msgspec.structs.replace(self._rest, rows=tuple(self._rows.values()))
        return self._record

    def row(self, direction: Direction, name: str) -> Row | None:
        return self._rows.get((direction, name))

    def add(self, row: Row) -> None:
        self._change([(None, row)])

    def remove(self, row: Row) -> None:
        self.replace(row, None)

    def replace(self, row: Row, other: Row | None) -> None:
        """`other` in the place of the row that is there under `row`'s name; None removes it."""
        found = self._rows.get(_key(row))
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
        """An incoming session is not there: what else its workload had is torn, since half of it is no whole (H12)."""

        def without(other: Row) -> Row | None:
            if _key(other) == _key(row):
                return None
            if other.direction == row.direction == "incoming" and workload(other) == workload(row):
                return msgspec.structs.replace(other, torn=True)
            return other

        self.change(without)

    def begin_generation(self) -> int:
        generation = self._rest.generation + 1
        self._set(generation=generation)
        return generation

    def depart(self, departure: Departure, change: Callable[[Row], Row]) -> None:
        """The jump comes next. `change` marks the outgoing rows whose participants are ready."""
        changes = self._changes(lambda row: change(row) if row.direction == "outgoing" else row)
        self._set(changes, departure=departure)

    def stay(self) -> tuple[Row, ...]:
        """The update is over and this kernel goes on: nothing is `ready` any more, and what was made while frozen is
        forgotten (H14). In one write, before anybody may resume (H13). The rows that are gone; their fds are not.
        """

        def without(row: Row) -> Row | None:
            if row.direction == "incoming":
                return row
            if ends_with_update(row):
                return None
            return msgspec.structs.replace(row, ready=False)

        changes = self._changes(without)
        if self._rest.departure is not None or changes:
            self._set(changes, departure=None)
        return tuple(row for row, other in changes if row is not None and other is None)

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
        rows = dict(self._rows)
        for row, other in changes:
            if row is not None and (other is None or _key(other) != _key(row)):
                del rows[_key(row)]
            if other is not None:
                rows[_key(other)] = other
        return rows

    @staticmethod
    def _pack(rest: Record, rows: dict[tuple[Direction, str], Row], number: int) -> bytes:
        record = msgspec.structs.replace(rest, rows=tuple(rows.values()))
        return journal.pack(number, msgspec.json.encode(record), whole=True)

    def _write(self, write: Callable[[], None]) -> None:
        """To the file. The memory is what counts; a disk that is full must not keep a VMM from its session."""
        try:
            write()
        except OSError as error:
            self._log.warning("registry-file", error=error)

    def _become(self, rest: Record, rows: dict[tuple[Direction, str], Row], changes: tuple[Change, ...]) -> None:
        self._rest, self._rows, self._record = rest, rows, None
        self._number += 1
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

    def close(self) -> None:
        self._memory.close()
        self._file.close()


def _entry(changes: Iterable[Change]) -> _Changes:
    gone = tuple(_key(row) for row, other in changes if row is not None and (other is None or _key(other) != _key(row)))
    return _Changes(gone, tuple(other for _row, other in changes if other is not None))


def _full(size: int) -> RegistryDamaged:
    return RegistryDamaged(f"the registry has grown to {size} bytes, more than fit", hint="release sessions")
