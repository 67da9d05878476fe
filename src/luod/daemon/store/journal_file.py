"""The registry's log in a file of the state directory, and the disk space that is reserved for it.

Two files of fixed size take turns: `registry` is the log, `registry.reserve` has its blocks allocated and becomes the
next log. So a disk that fills up later prevents neither an entry nor a new log. If the space cannot be reserved, the
log is written without. `luod.daemon.store.copies` decides the order of two copies.

While the state directory must not be written to, a log in the runtime directory continues this one. It exists only as
long as it is newer: it is removed as soon as the state directory's is written again.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import time

from luod.daemon.store import state_file
from luod.daemon.store.journal import SLOT_SIZE
from luod.daemon.store.write_hold import WriteHold
from luod.linux import Fd
from luod.static import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

_ROOM_UNIT: Final = 64 * 1024
_ROOM_FACTOR: Final = 4
"""A file has room for so many times the record at the start of its log."""


def room(record: int) -> int:
    """Returns the size of a file whose log begins with an entry of `record` bytes."""
    units = -(-record * _ROOM_FACTOR // _ROOM_UNIT)
    return max(record, min(SLOT_SIZE, units * _ROOM_UNIT))


class Journal:
    """The file `registry` in the state directory, and its reserve. Owns both while they are open."""

    def __init__(self, directory: str, hold: WriteHold | None = None) -> None:
        """`hold`: whether the files of `directory` may be written now, by default always."""
        self.directory = directory
        self.path = os.path.join(directory, "registry")
        self.hold: Final = WriteHold() if hold is None else hold
        runtime = self.hold.runtime_directory
        self.runtime: Final = None if runtime is None else Journal(runtime)
        """The log that continues this one while writes wait; None: none does."""
        self.begun = 0
        """The number of logs that this process began."""
        self.reserve_error: OSError | None = None
        """Why no space is reserved for the next log; None where it is, and before the first log."""
        self.reserve_wanted = room(0)
        """Bytes of the space that was last asked for."""
        self._reserve_path = os.path.join(directory, "registry.reserve")
        self._old_path = os.path.join(directory, "registry.old")
        self._file: Fd | None = None
        self._end = 0
        self._room = 0
        self._reserve: Fd | None = None
        self._reserve_size = 0
        self._dirty = 0
        """Bytes at the start of the reserve that are not known to be zeros."""
        self._aside: str | None = None

    def read(self) -> bytes | None:
        """Returns the content; None without a file. Raises OSError: it exists and cannot be read."""
        try:
            # A pipe or a device in its place must not block the reader.
            with open(self.path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
                found = os.fstat(file.fileno())
                if not stat.S_ISREG(found.st_mode):
                    raise OSError(errno.EINVAL, "it is not a regular file")
                if found.st_uid not in (0, os.geteuid()):
                    raise OSError(errno.EPERM, f"it belongs to uid {found.st_uid}")
                return file.read()
        except FileNotFoundError:
            return None

    def aside(self, reason: str) -> str:
        """Returns an unused path in the state directory, with `reason` in it, for a file to be kept."""
        path = f"{self.path}.{reason}-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}"
        paths = [path, *(f"{path}.{number}" for number in range(1, 100))]
        return next((path for path in paths if not os.path.lexists(path)), paths[-1])

    def keep_aside(self, reason: str) -> str:
        """Gives the file another name, which the next log does not reuse. Returns the new path.

        Raises OSError: it has no other name yet, and no log begins before it is renamed.
        """
        self._aside = path = self.aside(reason)
        os.link(self.path, path)  # Not a rename: if serve is killed now, the next one must find the file.
        self._aside = None
        return path

    def _move_aside(self) -> None:
        if self._aside is not None:
            with contextlib.suppress(FileNotFoundError):
                os.rename(self.path, self._aside)
            self._aside = None

    def append(self, entry: bytes) -> bool:
        """Appends an entry. Returns False if a new log must begin: no log is open, or it is full, or no longer the
        file of this name, or was written to in part.

        Raises OSError: no valid entry was written, and a new log must begin.
        """
        if self._file is None or self._end + len(entry) > self._room or not self.open:
            return False
        try:
            written = os.pwrite(self._file.fileno(), entry, self._end)
        except OSError:
            self._close_file()
            raise
        if written < len(entry):
            self._close_file()
            return False
        self._end += written
        return True

    def begin(self, entry: bytes) -> None:
        """Begins a log with `entry`, and reserves space for the next one.

        Raises OSError: the old log is still there, and takes no more entries. One after the missing entry would not be
        read.
        """
        try:
            self._begin(entry)
        except OSError:
            self._close_file()
            raise

    def _begin(self, entry: bytes) -> None:
        self._move_aside()
        size = room(len(entry))
        self.reserve(size)
        if self._reserve is not None and self._reserve_size >= len(entry):
            self._exchange(entry)
        else:
            self._close_file()
            state_file.replace(self.path, entry)
            self._file = Fd(os.open(self.path, os.O_WRONLY | os.O_CLOEXEC))
            self._room = SLOT_SIZE
        self._end = len(entry)
        self.begun += 1
        self.reserve(size)

    def _exchange(self, entry: bytes) -> None:
        """Makes the reserve, with `entry` in it, the log, and the log the reserve."""
        assert self._reserve is not None
        contents = entry + bytes(max(0, self._dirty - len(entry)))
        self._dirty = len(contents)  # also if only a part can be written
        _write_all(self._reserve, contents)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._old_path)
        # There is no reserve without a log yet, on a file system without hard links, and of a file that is kept aside.
        with contextlib.suppress(OSError):
            if os.lstat(self.path).st_nlink == 1:
                os.link(self.path, self._old_path)
        os.rename(self._reserve_path, self.path)
        old, self._file, self._room = self._file, self._reserve, self._reserve_size
        self._reserve = None
        try:
            os.rename(self._old_path, self._reserve_path)
        except OSError:
            if old is not None:
                old.close()
            return
        if old is not None:
            self._reserve, self._dirty, self._reserve_size = old, self._end, os.fstat(old.fileno()).st_size

    def reserve(self, size: int) -> None:
        """Reserves `size` bytes for the next log. After a failure `reserve_error` is the reason."""
        self.reserve_wanted = size
        try:
            if self._reserve is not None and not _is_at(self._reserve, self._reserve_path):
                self._close_reserve()
            if self._reserve is None:
                self._find_reserve()
                # Also readable: on a file system without fallocate, such as 9p, the C library reads the present
                # contents.
                flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
                self._reserve = Fd(os.open(self._reserve_path, flags, 0o600))
                os.fchmod(self._reserve.fileno(), 0o600)
                self._dirty = self._reserve_size = os.fstat(self._reserve.fileno()).st_size
            os.posix_fallocate(self._reserve.fileno(), 0, size)
            self._reserve_size = max(self._reserve_size, size)
        except OSError as error:
            self.reserve_error = error
            if self._reserve is not None and not self._reserve_size:
                self._close_reserve()
                with contextlib.suppress(OSError):
                    os.unlink(self._reserve_path)
            return
        self.reserve_error = None

    def _find_reserve(self) -> None:
        """Repairs the files of a serve that was killed while they changed places."""
        with contextlib.suppress(FileNotFoundError):
            if os.lstat(self._old_path).st_nlink > 1:
                os.unlink(self._old_path)
            elif not os.path.lexists(self._reserve_path):
                os.rename(self._old_path, self._reserve_path)
        with contextlib.suppress(FileNotFoundError):
            found = os.lstat(self._reserve_path)
            if found.st_nlink > 1 or not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid():
                os.unlink(self._reserve_path)

    @property
    def open(self) -> bool:
        """Returns whether there is a log to append to, under its name; otherwise one must begin."""
        return self._file is not None and _is_at(self._file, self.path)

    def syncing(self) -> Callable[[], None]:
        """Returns a function that waits until all present writes are on the disk. It is for one call, in any thread.

        Raises OSError.
        """
        assert self._file is not None
        file, folder = self._file.duplicate(), self.directory

        def sync() -> None:
            with file:
                os.fsync(file.fileno())
            with Fd(os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)) as directory:
                os.fsync(directory.fileno())

        return sync

    def _close_file(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _close_reserve(self) -> None:
        if self._reserve is not None:
            self._reserve.close()
            self._reserve = None

    def remove(self) -> None:
        """Removes the files, if this process began a log in them."""
        if not self.begun:
            return
        self.begun = 0
        self.close()
        for path in (self.path, self._reserve_path, self._old_path):
            with contextlib.suppress(OSError):
                os.unlink(path)

    def close(self) -> None:
        self._close_file()
        self._close_reserve()
        if self.runtime is not None:
            self.runtime.close()


def _write_all(file: Fd, data: bytes) -> None:
    at = 0
    while at < len(data):
        at += os.pwrite(file.fileno(), data[at:], at)


def _is_at(file: Fd, path: str) -> bool:
    """Returns whether `path` still leads to the open file: a directory may be removed, or mounted over."""
    try:
        there = os.lstat(path)
    except OSError:
        return False
    here = os.fstat(file.fileno())
    return (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino)
