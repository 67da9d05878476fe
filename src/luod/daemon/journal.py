"""The registry's bytes: a log in which a whole record is followed by what changed since, each entry with a checksum.

`Slots` is such a log in a memfd of fixed size, twice, so that one is whole while the other is begun anew; `Journal` is
one in a file. What is cut off or damaged ends a log before it. What the bodies of the entries say is for
`luod.daemon.registry`, the only caller, to know.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from luod.daemon import state_file
from luod.linux import Fd, memfd

SLOT_SIZE: Final = 512 * 1024
"""Bytes of each of the two logs in memory; a file begins anew at the same size."""

_HEADER: Final = struct.Struct("<8sIIQ")
"""Magic, checksum of all that follows it, length of the body, number of the entry."""
_WHOLE: Final = b"luodreg1"
_CHANGE: Final = b"luodreg+"


@dataclass(frozen=True)
class Log:
    """What is whole of a log. `number` is its last entry's, `end` where the next one goes, in bytes."""

    number: int
    end: int
    whole: bytes
    changes: tuple[bytes, ...]


def pack(number: int, body: bytes, *, whole: bool) -> bytes:
    rest = struct.pack("<IQ", len(body), number) + body
    return (_WHOLE if whole else _CHANGE) + struct.pack("<I", zlib.crc32(rest)) + rest


def unpack(data: bytes) -> Log | None:
    """None: it does not begin with a whole record."""
    entries = list(_entries(data))
    if not entries:
        return None
    (number, end, whole), *changes = entries
    if changes:
        number, end, _body = changes[-1]
    return Log(number, end, whole, tuple(body for _number, _end, body in changes))


def _entries(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Number, end and body of each, up to the first that does not follow: what stands behind is of an older log."""
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
        """Takes over a memfd that `new` made, in this kernel or in the one before."""
        self._file = file
        self._slot = 0
        self._end = SLOT_SIZE

    @classmethod
    def new(cls) -> Slots:
        """One in which nothing is written; it has its full size, since a preserved memfd cannot grow."""
        return cls(memfd("luod-registry", 2 * SLOT_SIZE))

    def fileno(self) -> int:
        return self._file.fileno()

    def read(self) -> Log | None:
        """The newer of the two, which is written on from here. None: neither begins with a whole record."""
        found = []
        for slot in range(2):
            log = unpack(os.pread(self._file.fileno(), SLOT_SIZE, slot * SLOT_SIZE))
            if log is not None:
                found.append((log.number, slot, log))
        if not found:
            return None
        _number, self._slot, newest = max(found, key=lambda each: each[0])
        self._end = newest.end
        return newest

    def forget(self) -> None:
        """Another log begins anew, whatever this one holds."""
        self._slot, self._end = 0, SLOT_SIZE

    def append(self, entry: bytes) -> bool:
        """Whether there was room for it."""
        if self._end + len(entry) > SLOT_SIZE:
            return False
        os.pwrite(self._file.fileno(), entry, self._slot * SLOT_SIZE + self._end)
        self._end += len(entry)
        return True

    def begin(self, entry: bytes) -> bool:
        """A log that begins with `entry`, beside the one that was. Whether there was room for it."""
        if len(entry) > SLOT_SIZE:
            return False
        slot = 1 - self._slot
        os.pwrite(self._file.fileno(), entry, slot * SLOT_SIZE)
        self._slot, self._end = slot, len(entry)
        return True

    def close(self) -> None:
        self._file.close()


class Journal:
    """The file `registry` in the state directory. Owns it while it is open."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._path = directory / "registry"
        self._file: Fd | None = None
        self._size = 0
        self.begun = 0
        """How often this process began a new one."""

    def read(self) -> Log | None:
        """None: there is none, or it does not begin with a whole record."""
        try:
            return unpack(self._path.read_bytes())
        except OSError:
            return None

    def append(self, entry: bytes) -> bool:
        """False: a new one has to begin, since this one is full, was left by another process, or broke off. OSError:
        nothing was written that counts, and a new one has to begin.
        """
        if self._file is None or self._size + len(entry) > SLOT_SIZE:
            return False
        try:
            written = os.write(self._file.fileno(), entry)
        except OSError:
            self.close()
            raise
        if written < len(entry):
            self.close()
            return False
        self._size += written
        return True

    def begin(self, entry: bytes) -> None:
        """OSError: the old one is still there."""
        self.close()
        state_file.replace(self._path, entry)
        self._file = Fd(os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC))
        self._size = len(entry)
        self.begun += 1

    @property
    def open(self) -> bool:
        """Whether there is one to append to; otherwise one has to begin."""
        return self._file is not None

    def syncing(self) -> Callable[[], None]:
        """What waits until all that is written by now is on the disk. To be called once, by any thread. OSError."""
        assert self._file is not None
        file, folder = self._file.duplicate(), self.directory

        def sync() -> None:
            with file:
                os.fsync(file.fileno())
            with Fd(os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)) as directory:
                os.fsync(directory.fileno())

        return sync

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
