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
from luod.daemon.store.states import WHOLE, IncomingState, OutgoingState, require
from luod.errors import LuodError
from luod.frozen import replace
from luod.static import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from luod.daemon.log import Log
    from luod.daemon.store.entries import Key
    from luod.daemon.store.journal import Slots
    from luod.daemon.store.journal_file import Journal
    from luod.daemon.store.schema import Departure, Doubt, Held, Image, Owed, Record
    from luod.ipc.types.sessions import Direction


class RegistryDamaged(LuodError):
    hint = "sessions are still in the kernel; a program that knows its session's name can retrieve it without luod"


_AGAIN_SECONDS = 5.0
"""Seconds after which a file that could not be written is tried again."""

Change = tuple[Row | None, Row | None]
"""A row before and after the change; None before if it is new, None after if it is removed."""


class Registry:
    """The current record and its two copies. Owns them.

    With `soon`, the changes of rows in one turn of the loop are written together, as one entry. Then `write` must come
    before anything that leaves serve: an answer to a client, a request to the supervisor.
    """

    def __init__(self, record: Record, memory: Slots, file: Journal, log: Log, *, number: int = 0) -> None:
        """`record` is entry `number` of both copies; if `number` is 0, the first change writes it."""
        self.soon: Callable[[Callable[[], None]], object] | None = None
        """Calls a function in the next turn of the loop. None: each change is written at once."""
        self.watchers: list[Callable[[tuple[Change, ...]], None]] = []
        """Callbacks for each change of rows."""
        self.noted: Callable[[Row, str], None] | None = None
        self._rest = replace(record, rows=())
        self._record: Record | None = record
        self._outgoing = {row.name: row for row in record.outgoing}
        self._incoming = {row.name: row for row in record.incoming}
        self._parts: dict[str, set[Key]] = {}
        """The sessions with a generation of each workload."""
        for row in record.rows:
            self._index(row)
        self._unwritten: dict[Key, Row | None] = {}
        self._number = number
        self._log = log
        self._memory = memory
        self._file = file
        self._file_error = ""
        """The reason why the last write of the file failed; "" if the file is current."""
        self._runtime_error = ""
        """As `_file_error`, of the log in the runtime directory."""
        self._again: asyncio.TimerHandle | None = None
        """When the file is written again after a failure."""

    @property
    def record(self) -> Record:
        if self._record is None:
            self._record = replace(self._rest, rows=(*self._outgoing.values(), *self._incoming.values()))
        return self._record

    @property
    def rest(self) -> Record:
        """Returns the record without its rows, which costs nothing."""
        return self._rest

    def __len__(self) -> int:
        """Returns the number of sessions in both directions."""
        return len(self._outgoing) + len(self._incoming)

    @property
    def any_incoming(self) -> bool:
        """Returns whether there is an incoming session."""
        return bool(self._incoming)

    @property
    def all_outgoing(self) -> list[OutgoingRow]:
        return list(self._outgoing.values())

    @property
    def all_incoming(self) -> list[IncomingRow]:
        return list(self._incoming.values())

    def row(self, direction: Direction, name: str) -> Row | None:
        return self._outgoing.get(name) if direction == "outgoing" else self._incoming.get(name)

    def outgoing(self, name: str) -> OutgoingRow | None:
        return self._outgoing.get(name)

    def incoming(self, name: str) -> IncomingRow | None:
        return self._incoming.get(name)

    def workload(self, base: str) -> list[Row]:
        """Returns the rows of NAME and of all NAME#GENERATION, in both directions."""
        rows = [
            self._outgoing.get(base),
            self._incoming.get(base),
            *(self.row(*each) for each in self._parts.get(base, ())),
        ]
        return [row for row in rows if row is not None]

    def become(self, row: IncomingRow, state: IncomingState) -> IncomingRow:
        """Changes the state of the session if it still exists. Returns its row. Raises ImpossibleTransition."""
        now = replace(self.incoming(row.name) or row, state=state)
        self.replace(row, now)
        return now

    def replaced(self, row: OutgoingRow) -> None:
        """Marks a carried-over session as undeclared: a new session has replaced it, without its files."""
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
        found = self.row(*key(row))
        if found is not None and found != other:
            self._change([(found, other)])

    def change(self, change: Callable[[Row], Row | None], rows: Iterable[Row]) -> None:
        """Replaces each of the rows by the result of `change`; None removes it. Makes at most one write."""
        if changes := _changes(change, rows):
            self._change(changes)

    def note(self, row: Row, what: str) -> None:
        """Reports an event that is not recorded: a session was "retrieved", or is about to end with outcome `what`."""
        if self.noted is not None:
            self.noted(row, what)

    def lose(self, row: Row) -> None:
        """Removes the row of a lost session. The other incoming sessions of its workload become torn, unless its guest
        was resumed: a partial restore is invalid (H12).
        """

        def without(other: Row) -> Row | None:
            if key(other) == key(row):
                return None
            if isinstance(other, IncomingRow) and row.direction == "incoming":
                return replace(other, state=IncomingState.TORN) if other.state in WHOLE else other
            return other

        self.change(without, self.workload(row.base))

    def begin_generation(self) -> int:
        generation = self._rest.generation + 1
        self._set(generation=generation)
        return generation

    def depart(self, departure: Departure, ready: Mapping[str, OutgoingRow]) -> None:
        """Records that the kexec is next. `ready` are the outgoing rows of the participants that are ready."""
        self._set(_changes(lambda row: ready.get(row.name, row), self.all_outgoing), departure=departure)

    def stay(self) -> tuple[Row, ...]:
        """Records that this kernel continues after a cancelled update: no session is `ready` now, and those created
        while frozen are removed (H14), in one write before a guest resumes (H13). Returns the removed rows.
        """

        def without(row: Row) -> Row | None:
            if isinstance(row, OutgoingRow) and row.ends_with_update:
                return None
            return replace(row, state=OutgoingState.DECLARED) if row.state is OutgoingState.READY else row

        changes = _changes(without, self.all_outgoing)
        if self._rest.departure is not None or changes:
            self._set(changes, departure=None)
        return tuple(row for row, other in changes if row is not None and other is None)

    def set_doubts(self, doubts: tuple[Doubt, ...]) -> None:
        self._set(doubts=doubts)

    def set_held(self, held: tuple[Held, ...]) -> None:
        self._set(held=held)

    def set_arrival(self, arrival: Departure) -> None:
        self._set(arrival=arrival)

    def not_arrived(self) -> None:
        """Records that nothing of the last update reached this kernel."""
        owed = self._rest.owed
        self._set(arrival=None, owed=None if owed is None else replace(owed, jumped=False))

    def set_arrived(self, arrived: float) -> None:
        self._set(arrived=arrived)

    def set_owed(self, owed: Owed | None) -> None:
        self._set(owed=owed)

    def set_image(self, image: Image | None) -> None:
        self._set(image=image)

    def _set(self, changes: list[Change] | None = None, **fields: Any) -> None:
        """Changes rarely changed fields: both logs are rewritten with the whole record."""
        changes = changes or []
        self._apply(changes)
        self._rest, self._record = replace(self._rest, **fields), None
        whole = self._begin()
        self._write(lambda file: file.begin(whole))
        self._tell(changes)

    def _change(self, changes: list[Change]) -> None:
        """Changes rows: both logs get an entry, at the latest in the next turn of the loop."""
        self._apply(changes)
        if self.soon is not None and not self._unwritten:
            self.soon(self.write)
        for row, other in changes:
            if row is not None:
                self._unwritten[key(row)] = None
            if other is not None:
                self._unwritten[key(other)] = other
        if self.soon is None:
            self.write()
        self._tell(changes)

    def write(self) -> None:
        """Writes the changes of rows since the last write, as one entry. Raises RegistryDamaged: they are too large."""
        if not self._unwritten:
            return
        entry = journal.pack(self._number + 1, entries.changes(self._unwritten), whole=False)
        if self._memory.append(entry):
            self._number += 1
            self._unwritten = {}
        else:
            self._begin()

        def append(file: Journal) -> None:
            try:
                appended = file.append(entry)
            except OSError:
                appended = False  # the disk may have room for another log
            if not appended:
                self._begin_file(file)

        self._write(append)

    def _begin(self) -> bytes:
        """Begins the log in memory, with the whole record as the next entry, which is returned."""
        whole = journal.pack(self._number + 1, entries.whole(self.record), whole=True)
        if not self._memory.begin(whole):
            size = len(whole)
            raise RegistryDamaged(
                f"the registry has grown to {size} bytes, which is too large", hint="release sessions"
            )
        self._number += 1
        self._unwritten = {}
        return whole

    def _begin_file(self, file: Journal) -> None:
        """Begins the log in the file, with the whole record as the last entry in memory."""
        file.begin(self.packed())

    def packed(self) -> bytes:
        """Returns the log that has the whole record as its only entry, with the number of the last one in memory."""
        return journal.pack(self._number, entries.whole(self.record), whole=True)

    def _apply(self, changes: list[Change]) -> None:
        """Changes the rows. Raises ImpossibleTransition: nothing is changed."""
        for row, other in changes:
            if row is not None and other is not None:
                require(row.state, other.state)
        for row, other in changes:
            if row is not None and (other is None or key(other) != key(row)):
                self._remove(row)
            if other is not None:
                if row is None or key(other) != key(row):
                    self._index(other)
                if isinstance(other, OutgoingRow):
                    self._outgoing[other.name] = other
                else:
                    self._incoming[other.name] = other
        self._record = None

    def _index(self, row: Row) -> None:
        if row.generation is not None:
            self._parts.setdefault(row.base, set()).add(key(row))

    def _remove(self, row: Row) -> None:
        del (self._outgoing if row.direction == "outgoing" else self._incoming)[row.name]
        if row.generation is not None:
            parts = self._parts[row.base]
            parts.discard(key(row))
            if not parts:
                del self._parts[row.base]

    def _tell(self, changes: list[Change]) -> None:
        for row, other in changes:
            if row is not None and other is not None and row.state != other.state:
                self._log.debug("session", name=other.name, direction=other.direction, was=row.state, state=other.state)
        for watcher in self.watchers:
            watcher(tuple(changes))

    def _write(self, write: Callable[[Journal], None]) -> None:
        """Writes to the file. A failure is logged, not raised: the memory has the change, and a full disk must not
        block a VMM. Repeated failures for the same reason are logged once. While serve runs, it tries again later.
        While writes to the directory wait, it writes to the log in the runtime directory. The whole record is written
        at their end.
        """
        runtime = self._file.runtime
        if self._file.hold.waits("registry", self.write_file):
            if runtime is not None:
                self._runtime_error = self._try(write, runtime, self._runtime_error)
            return
        reason = self._file_error = self._try(write, self._file, self._file_error)
        if runtime is not None and not reason:
            runtime.remove()
        if reason and self.soon is not None and self._again is None:
            self._again = asyncio.get_running_loop().call_later(_AGAIN_SECONDS, self._try_again)

    def _try(self, write: Callable[[Journal], None], file: Journal, before: str) -> str:
        """Writes to a file. Returns the reason of a failure, and logs it if it is not that of `before`; "" without."""
        try:
            write(file)
        except OSError as error:
            reason = error.strerror or str(error)
        else:
            if before:
                self._log("registry-file-again", path=file.path)
            return ""
        if reason != before:
            self._log.error(
                "registry-file",
                path=file.path,
                error=reason,
                meaning="changes are in memory only, and are lost if the supervisor dies before the file is writable",
            )
        return reason

    def _try_again(self) -> None:
        self._again = None
        if self._file_error:
            self.write_file()

    async def sync(self) -> None:
        """Writes the file to the disk, before a hook. Raises OSError. No guest may be paused: there is no limit."""
        self.write()
        begun = None
        while begun != self._file.begun or not self._file.open:
            if not self._file.open:
                self._begin_file(self._file)
            begun = self._file.begun
            await asyncio.to_thread(self._file.syncing())

    def write_file(self) -> None:
        """Rewrites the file with the whole record: it may be out of date at the start of serve, and after a failure."""
        self.write()
        self._write(self._begin_file)

    @property
    def file(self) -> Journal:
        return self._file

    @property
    def file_error(self) -> str:
        """Returns why the file is out of date; "" if it is current."""
        return self._file_error

    def close(self) -> None:
        self.write()
        self._file.hold.end()
        if self._again is not None:
            self._again.cancel()
        self._memory.close()
        self._file.close()


def _changes(change: Callable[[Row], Row | None], rows: Iterable[Row]) -> list[Change]:
    return [(row, other) for row in rows if (other := change(row)) is not row and other != row]
