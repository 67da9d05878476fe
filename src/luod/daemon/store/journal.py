"""The registry's bytes: a log of a whole record and the changes since, each entry with a checksum.

`Slots` is such a log in a memfd of fixed size, twice, so that one is complete while the other begins. The log in a file
is `luod.daemon.store.journal_file`. A truncated or damaged entry ends a log before it. `luod.daemon.store.copies`
decodes the bodies of the entries. These bytes never change; the body of a whole record has the number of its format.
"""

from __future__ import annotations

import os
import struct
import zlib

from luod.frozen import frozen
from luod.linux import Fd, memfd
from luod.static import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

SLOT_SIZE: Final = 512 * 1024
"""The size of each of the two logs in memory in bytes. A file begins a new log at the same size."""

_HEADER: Final = struct.Struct("<8sIIQ")
"""Magic, checksum of all that follows it, length of the body, number of the entry."""
_WHOLE: Final = b"luodreg1"
_CHANGE: Final = b"luodreg+"


@frozen
class Log:
    """The valid part of a log. `number` is that of its last entry, `end` the offset of the next one in bytes."""

    number: int
    end: int
    whole: bytes
    changes: tuple[bytes, ...]
    rest: bool = False
    """Bytes other than zeros follow the last valid entry."""


def pack(number: int, body: bytes, *, whole: bool) -> bytes:
    rest = struct.pack("<IQ", len(body), number) + body
    return (_WHOLE if whole else _CHANGE) + struct.pack("<I", zlib.crc32(rest)) + rest


def unpack(data: bytes) -> Log | None:
    """Returns the log; None if it does not begin with a valid record."""
    entries = list(_entries(data))
    if not entries:
        return None
    (number, end, whole), *changes = entries
    if changes:
        number, end, _body = changes[-1]
    rest = data.count(0, end) != len(data) - end
    return Log(number, end, whole, tuple(body for _number, _end, body in changes), rest)


def _entries(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Yields number, end and body of each entry, up to the first out of sequence: later ones are of an older log."""
    at, due, kind = 0, None, _WHOLE
    while at + _HEADER.size <= len(data):
        magic, checksum, length, number = _HEADER.unpack_from(data, at)
        end = at + _HEADER.size + length
        if magic != kind or end > len(data) or due not in (None, number):
            return
        if zlib.crc32(memoryview(data)[at + 12 : end]) != checksum:
            return
        yield number, end, data[at + _HEADER.size : end]
        at, due, kind = end, number + 1, _CHANGE


class Slots:
    """The memfd. Owns it."""

    def __init__(self, file: Fd) -> None:
        """Takes ownership of a memfd that `new` made, in this kernel or in the previous one."""
        self._file = file
        self._slot = 0
        self._end = SLOT_SIZE

    @classmethod
    def new(cls) -> Slots:
        """Returns an empty one of full size, since a preserved memfd cannot grow.

        It may be sealed after a kexec (`vm.memfd_noexec`): the next kernel's luod only reads it, and makes its own.
        """
        return cls(memfd("luod-registry", 2 * SLOT_SIZE, executable=False))

    def fileno(self) -> int:
        return self._file.fileno()

    @property
    def file(self) -> Fd:
        return self._file

    def read(self) -> Log | None:
        """Returns the newer log, which is continued from here. None: neither begins with a valid record."""
        # A log begins with a higher number than any in the other one.
        for slot in sorted(range(2), key=self._first_number, reverse=True):
            log = unpack(os.pread(self._file.fileno(), SLOT_SIZE, slot * SLOT_SIZE))
            if log is not None:
                self._slot, self._end = slot, log.end
                return log
        return None

    def _first_number(self, slot: int) -> int:
        header = os.pread(self._file.fileno(), _HEADER.size, slot * SLOT_SIZE)
        number: int = _HEADER.unpack(header.ljust(_HEADER.size))[3]
        return number

    def forget(self) -> None:
        """Makes the next entry begin a log, with any contents of this one."""
        self._slot, self._end = 0, SLOT_SIZE

    def clear(self) -> None:
        """Overwrites both logs with zeros: the next entry begins a log that is not compared with an old one."""
        os.pwrite(self._file.fileno(), bytes(2 * SLOT_SIZE), 0)
        self.forget()

    def contents(self) -> bytes:
        """Returns all bytes, for a copy of a memory that cannot be decoded."""
        return os.pread(self._file.fileno(), 2 * SLOT_SIZE, 0)

    def append(self, entry: bytes) -> bool:
        """Appends an entry. Returns whether there was room for it."""
        if self._end + len(entry) > SLOT_SIZE:
            return False
        os.pwrite(self._file.fileno(), entry, self._slot * SLOT_SIZE + self._end)
        self._end += len(entry)
        return True

    def begin(self, entry: bytes) -> bool:
        """Begins a log with `entry`, beside the present one. Returns whether there was room for it."""
        if len(entry) > SLOT_SIZE:
            return False
        slot = 1 - self._slot
        os.pwrite(self._file.fileno(), entry, slot * SLOT_SIZE)
        self._slot, self._end = slot, len(entry)
        return True

    def close(self) -> None:
        self._file.close()
