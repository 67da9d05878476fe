"""The registry: what luod must remember, since the kernel cannot list sessions. Names, owners, the image, the boot.

It is kept twice. `RegistryMemory` is a memfd preserved in luod's own session, so it comes along in the jump; it has two
slots, written in turn, so that one is whole at any moment. The file in the state directory outlives luod itself, and
is the second copy should the first be damaged. When to write and when to read which is `luod.daemon.takeover`.
"""

from __future__ import annotations

import os
import struct
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Final, Literal

import msgspec

from luod.daemon import state_file
from luod.daemon.clock import Crossing, Moment, Pace
from luod.daemon.log import Log
from luod.errors import LuodError
from luod.linux import Fd, memfd

Direction = Literal["outgoing", "incoming"]

FORMAT: Final = 1
MOST_SESSIONS: Final = 1024
"""Of both directions. Their names must fit an environment variable, 128 KiB, with those of keep's other fds."""

_SLOT_SIZE: Final = 512 * 1024
_HEADER: Final = struct.Struct("<8sIIQ")
"""Magic, checksum of all that follows it, length of the record, generation."""
_MAGIC: Final = b"luodreg1"


class RegistryDamaged(LuodError):
    hint = "sessions are still in the kernel; a program that knows its session's name can retrieve it without luod"


class Row(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A session and who may use it: the user `owner`, a uid of luod's user namespace, and root.

    `judged`, outgoing: a participant declared it, so it is torn unless `ready`. `ready`, outgoing: its participant was,
    in freezing of the update that jumps now; set right before the jump and at no other time. `generation`: of the
    update in which it was created, for what is frozen then. `torn`, `resumed`: incoming, not to be handed out. `bytes`
    and the seconds it took its participant to be ready in each phase: as they were in the update. `discard`, outgoing:
    it goes when the process that created it does. `reaped`, incoming: a reaper has begun with it.
    `forwarding`, incoming: keep holds its files, from which it is made anew; maybe it is finished already. `forwarded`,
    outgoing: luod made it so. `retrieved`, incoming: luod has asked the kernel for it in this boot, so it may be with a
    client even where luod has it not.
    """

    direction: Direction
    name: str
    owner: int
    judged: bool = False
    ready: bool = False
    generation: int | None = None
    torn: bool = False
    resumed: bool = False
    bytes: int = 0
    preparing_seconds: float = 0.0
    freezing_seconds: float = 0.0
    discard: bool = False
    reaped: bool = False
    forwarding: bool = False
    forwarded: bool = False
    retrieved: bool = False


class Image(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The next kernel, as it was loaded through luod. Its files are stored with keep, under names with `number`."""

    number: int
    initrd: bool
    command_line: str


class HeldFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file that luod holds for a program; keep has it under a name with `number`."""

    number: int
    name: str


class Held(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A set of files that the user `owner` has handed over, see `luod.daemon.held`. No kernel carries them on."""

    owner: int
    name: str
    files: tuple[HeldFile, ...]


class Departure(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The update that jumps: it is in the registry from right before reboot(2), and goes when that returns. The next
    kernel keeps it, with what the jump took, `crossing`; `left` is when this one was left.
    """

    update: str
    generation: int
    forced: bool
    preparing_seconds: float
    freezing_seconds: float
    left: Moment | None = None
    pace: Pace | None = None
    crossing: Crossing | None = None


class Owed(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """An update whose hook after-update is still to run; `jumped`: its jump has taken place."""

    update: str
    generation: int
    jumped: bool = False


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """All of it. `boot` counts the kernels since luod first ran, from 1; `boot_id` is the kernel's own.

    `generation` counts the updates that were begun. `departure` is the one that jumps now, `arrival` the one that
    brought the incoming sessions; None when a jump came about without luod. `arrived` is when luod found them in this
    kernel, by CLOCK_BOOTTIME.
    """

    format: int
    boot: int
    boot_id: str
    rows: tuple[Row, ...] = ()
    image: Image | None = None
    generation: int = 0
    departure: Departure | None = None
    arrival: Departure | None = None
    arrived: float | None = None
    held: tuple[Held, ...] = ()
    owed: Owed | None = None


def fd_name(row: Row) -> str:
    """The name under which keep holds a session."""
    return f"{row.direction}.{row.name}"


def workload(row: Row) -> str:
    """Whose the session is: NAME, of both NAME and NAME#GENERATION."""
    return row.name if row.generation is None else row.name.rpartition("#")[0]


def now() -> float:
    """As `Record.arrived` counts."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def _pack(record: Record, generation: int) -> bytes:
    body = msgspec.json.encode(record)
    rest = struct.pack("<IQ", len(body), generation) + body
    if len(rest) > _SLOT_SIZE - 12:
        raise RegistryDamaged(f"the registry has grown to {len(body)} bytes, more than fit", hint="release sessions")
    return _MAGIC + struct.pack("<I", zlib.crc32(rest)) + rest


def _unpack(data: bytes) -> tuple[int, Record] | None:
    """The generation and the record; None when the bytes are not a whole one of a format we know."""
    if len(data) < _HEADER.size:
        return None
    magic, checksum, length, generation = _HEADER.unpack_from(data)
    end = _HEADER.size + length
    if magic != _MAGIC or end > len(data) or zlib.crc32(data[12:end]) != checksum:
        return None
    try:
        record = msgspec.json.decode(data[_HEADER.size : end], type=Record)
    except msgspec.DecodeError:
        return None
    return (generation, record) if record.format == FORMAT else None


class RegistryMemory:
    """The memfd. Owns it."""

    def __init__(self, file: Fd) -> None:
        """Takes over a memfd that `new` made, in this kernel or in the one before."""
        self._file = file
        self._generation = 0

    @classmethod
    def new(cls) -> RegistryMemory:
        """One in which nothing is written; it has its full size, since a preserved memfd cannot grow."""
        return cls(memfd("luod-registry", 2 * _SLOT_SIZE))

    def fileno(self) -> int:
        return self._file.fileno()

    def read(self) -> Record:
        """The newest whole record. RegistryDamaged: neither slot holds one."""
        slots = (_unpack(os.pread(self._file.fileno(), _SLOT_SIZE, slot * _SLOT_SIZE)) for slot in range(2))
        whole = [slot for slot in slots if slot is not None]
        if not whole:
            raise RegistryDamaged("the registry in luod's session cannot be read")
        self._generation, record = max(whole, key=lambda slot: slot[0])
        return record

    def write(self, record: Record) -> None:
        """Writes to the slot that does not hold the newest record."""
        data = _pack(record, self._generation + 1)
        os.pwrite(self._file.fileno(), data, (self._generation + 1) % 2 * _SLOT_SIZE)
        self._generation += 1

    def close(self) -> None:
        self._file.close()


class RegistryFile:
    """The file `registry` in the state directory, replaced as a whole."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "registry"

    def read(self) -> Record | None:
        """None: there is none, or it is damaged."""
        try:
            unpacked = _unpack(self._path.read_bytes())
        except OSError:
            return None
        return None if unpacked is None else unpacked[1]

    def write(self, record: Record, *, durable: bool) -> None:
        """OSError: the old file is still there. `durable` waits until the new one is on the disk."""
        state_file.replace(self._path, _pack(record, 1), durable=durable)


class Registry:
    """The record as it is now, and its two copies. Owns the memory."""

    def __init__(self, record: Record, memory: RegistryMemory, file: RegistryFile, log: Log) -> None:
        self.record = record
        self.watchers: list[Callable[[Record, Record], None]] = []
        """Told of each change, what was and what is."""
        self.noted: Callable[[Row, str], None] | None = None
        self._log = log
        self._memory = memory
        self._file = file

    def row(self, direction: Direction, name: str) -> Row | None:
        return next((row for row in self.record.rows if (row.direction, row.name) == (direction, name)), None)

    def add(self, row: Row) -> None:
        self._change(msgspec.structs.replace(self.record, rows=(*self.record.rows, row)))

    def remove(self, row: Row) -> None:
        self.change(lambda other: None if (other.direction, other.name) == (row.direction, row.name) else other)

    def change(self, change: Callable[[Row], Row | None]) -> None:
        """Every row as `change` gives it; None removes it. One write, and none where nothing changes."""
        rows = tuple(row for row in map(change, self.record.rows) if row is not None)
        if rows != self.record.rows:
            self._change(msgspec.structs.replace(self.record, rows=rows))

    def note(self, row: Row, what: str) -> None:
        """Passes on what is in no record: that the session was "retrieved", or as what it is about to end."""
        if self.noted is not None:
            self.noted(row, what)

    def lose(self, row: Row) -> None:
        """An incoming session is not there: what else its workload had is torn, since half of it is no whole (H12)."""

        def without(other: Row) -> Row | None:
            if fd_name(other) == fd_name(row):
                return None
            if other.direction == row.direction == "incoming" and workload(other) == workload(row):
                return msgspec.structs.replace(other, torn=True)
            return other

        self.change(without)

    def begin_generation(self) -> int:
        generation = self.record.generation + 1
        self._change(msgspec.structs.replace(self.record, generation=generation))
        return generation

    def depart(self, departure: Departure, change: Callable[[Row], Row]) -> None:
        """The jump comes next. `change` marks the outgoing rows whose participants are ready."""
        rows = tuple(change(row) if row.direction == "outgoing" else row for row in self.record.rows)
        self._change(msgspec.structs.replace(self.record, rows=rows, departure=departure))

    def stay(self) -> tuple[Row, ...]:
        """The update is over and this kernel goes on: nothing is `ready` any more, and what was made while frozen is
        forgotten (H14). In one write, before anybody may resume (H13). The rows that are gone; their fds are not.
        """
        frozen = tuple(
            row
            for row in self.record.rows
            if row.direction == "outgoing" and row.generation is not None and not row.forwarded
        )
        rows = tuple(
            row if row.direction == "incoming" else msgspec.structs.replace(row, ready=False)
            for row in self.record.rows
            if row not in frozen
        )
        if self.record.departure is not None or rows != self.record.rows:
            self._change(msgspec.structs.replace(self.record, rows=rows, departure=None))
        return frozen

    def set_held(self, held: tuple[Held, ...]) -> None:
        self._change(msgspec.structs.replace(self.record, held=held))

    def set_owed(self, owed: Owed | None) -> None:
        self._change(msgspec.structs.replace(self.record, owed=owed))

    def set_image(self, image: Image | None) -> None:
        self._change(msgspec.structs.replace(self.record, image=image))

    def _change(self, record: Record) -> None:
        """The memory is what counts; a disk that is full must not keep a VMM from its session."""
        self._memory.write(record)
        before, self.record = self.record, record
        try:
            self._file.write(record, durable=False)
        except OSError as error:
            self._log.warning("registry-file", error=error)
        for watcher in self.watchers:
            watcher(before, record)

    def sync(self) -> None:
        """Before a jump: the file is on the disk. OSError."""
        self._file.write(self.record, durable=True)

    def close(self) -> None:
        self._memory.close()
