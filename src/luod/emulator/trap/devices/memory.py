"""Memory that emulated devices have and reach: BARs, files and address spaces that DMA targets, eventfds.

Implements `DeviceHost`, and what `DeviceCaller` returns. The BARs of a device are one sparse memfd with the layout of
its VFIO file, so that FUSE can let the kernel map it in place of that file.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import mmap
import os
import select
import signal
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Final, Generic, Self, TypeVar

from luod import linux
from luod.emulator.model.ports import Errno, HostFile
from luod.emulator.trap.process import process_memory
from luod.emulator.trap.process.mappings import mappings
from luod.emulator.trap.process.memory_files import HostMemory, OpenFile
from luod.emulator.trap.process.placeholder import Identity
from luod.linux import Fd
from luod.uapi import vfio

_write = ctypes.CDLL(None).write
_ONE: Final = (1).to_bytes(8, "little")
_PATIENCE: Final = 0.01
"""Seconds for a write that normally takes microseconds."""


class Bars:
    """The BARs of one device. BAR N is at N << PCI_OFFSET_SHIFT of a memfd, which this owns until the last BAR is
    closed.
    """

    def __init__(self, host: DeviceMemory, name: str, sizes: Sequence[int]) -> None:
        """Raises OSError where the host does not allow a file of that length."""
        self.host = host
        last = len(sizes) - 1
        self.file = linux.memfd(name, (last << vfio.PCI_OFFSET_SHIFT) + sizes[last], executable=False, sealing=False)
        self._open = len(sizes)
        self.each = tuple(Bar(self, index << vfio.PCI_OFFSET_SHIFT, size) for index, size in enumerate(sizes))

    def close_one(self) -> None:
        self._open -= 1
        if not self._open:
            self.file.close()


class Bar:
    """`Memory` of one BAR."""

    def __init__(self, bars: Bars, offset: int, size: int) -> None:
        self.bars = bars
        self.size = size
        self._bytes = mmap.mmap(bars.file.fileno(), size, offset=offset)

    def read(self, offset: int, length: int) -> bytes:
        return self._bytes[offset : offset + length]

    def write(self, offset: int, data: bytes) -> None:
        self.bars.host.stores += 1
        self._bytes[offset : offset + len(data)] = data

    def close(self) -> None:
        if not self._bytes.closed:
            self._bytes.close()
            self.bars.close_one()


Key = TypeVar("Key", bound=Hashable)


class Shared(Generic[Key]):
    """An fd that all mappings of one process, or of one file, have in common. The last of them closes it.

    A program makes as many mappings as it likes, and the supervisor has a limit of open files.
    """

    def __init__(self, table: dict[Key, Shared[Key]], key: Key, fd: Fd) -> None:
        """Takes ownership of `fd`, and a place in `table` until it is closed."""
        self._fd = fd
        self._table = table
        self._key = key
        self._users = 0
        table[key] = self

    def fileno(self) -> int:
        return self._fd.fileno()

    def use(self) -> Self:
        """Counts one more user, which runs `drop`."""
        self._users += 1
        return self

    def drop(self) -> None:
        self._users -= 1
        if not self._users:
            self._fd.close()
            if self._table.get(self._key) is self:
                del self._table[self._key]

    def is_process_alive(self) -> bool:
        """Returns whether the process of this pidfd exists."""
        try:
            signal.pidfd_send_signal(self.fileno(), 0)
        except OSError:
            return False
        return True


def refusal(error: OSError, otherwise: int) -> Errno:
    """Returns the Errno for a caller: ENFILE where the supervisor has no fd left, which is not the caller's limit."""
    code = error.errno or otherwise
    return Errno(errno.ENFILE if code == errno.EMFILE else code)


class FileMemory:
    """`Memory` in a process's memfd. An open file description of its own keeps the memfd."""

    def __init__(self, file: Shared[Identity], offset: int, length: int) -> None:
        """Uses `file` until `close`."""
        self._file = file.use()
        self._offset = offset
        self.size = length

    def _holds(self, end: int) -> bool:
        """Returns whether the file has the first `end` bytes of this memory."""
        return self._offset + end <= os.fstat(self._file.fileno()).st_size

    def pin(self, *, writable: bool, bars_too: bool = False) -> None:
        if not self._holds(self.size):
            raise Errno(errno.EINVAL)

    def read(self, offset: int, length: int) -> bytes:
        try:
            data = os.pread(self._file.fileno(), length, self._offset + offset)
        except (OSError, OverflowError):
            raise Errno(errno.EFAULT) from None
        if len(data) < length:  # Truncated since. A real kernel would still have the pages.
            raise Errno(errno.EFAULT)
        return data

    def write(self, offset: int, data: bytes) -> None:
        if not self._holds(offset + len(data)):  # a write would make the file longer
            raise Errno(errno.EFAULT)
        try:
            os.pwrite(self._file.fileno(), data, self._offset + offset)
        except (OSError, OverflowError):
            raise Errno(errno.EFAULT) from None

    def close(self) -> None:
        self._file.drop()


class ProcessMemory:
    """`Memory` at an address of a process, valid while the process lives. Its pidfd guards against a reused pid."""

    def __init__(
        self, process: Shared[int], pid: int, address: int, length: int, is_bar: Callable[[Identity], bool]
    ) -> None:
        """Uses `process` until `close`.

        `is_bar` returns whether a mapped file is one of the supervisor's: then the mapping is of a BAR.
        """
        self._process = process.use()
        self._pid = pid
        self._address = address
        self.size = length
        self._is_bar = is_bar

    def pin(self, *, writable: bool, bars_too: bool = False) -> None:
        self._check()
        wanted = "w" if writable else "r"
        position, end = self._address, self._address + self.size
        for mapping in mappings(self._pid, position, end):
            if mapping.start > position or wanted not in mapping.permissions:
                break
            if not bars_too and self._is_bar(mapping.file):
                break
            position = mapping.end
        if position < end:
            raise Errno(errno.EFAULT)

    def _check(self) -> None:
        if not self._process.is_process_alive():
            raise Errno(errno.EFAULT)

    def read(self, offset: int, length: int) -> bytes:
        self._check()
        try:
            return process_memory.read(self._pid, self._address + offset, length)
        except Errno:
            raise Errno(errno.EFAULT) from None

    def write(self, offset: int, data: bytes) -> None:
        self._check()
        try:
            process_memory.write(self._pid, self._address + offset, data)
        except Errno:
            raise Errno(errno.EFAULT) from None

    def close(self) -> None:
        self._process.drop()


class EventFd:
    """A duplicate of a process's eventfd. Owns it."""

    _handler: Any = None
    _open = 0
    """How many there are. While there is one, SIGALRM interrupts a system call and does nothing else."""

    def __init__(self, fd: Fd) -> None:
        self._fd = fd
        if not EventFd._open:
            EventFd._handler = signal.signal(signal.SIGALRM, lambda *_: None)
        EventFd._open += 1
        self._room = select.poll()
        self._room.register(fd.fileno(), select.POLLOUT)

    def signal(self) -> None:
        # A write to a full counter would block, and its reader is notified anyway.
        if not self._room.poll(0):
            return
        # Another thread may fill the counter at this moment.
        if fcntl.fcntl(self._fd.fileno(), fcntl.F_GETFL) & os.O_NONBLOCK:
            with contextlib.suppress(BlockingIOError):
                os.write(self._fd.fileno(), _ONE)
        else:
            signal.setitimer(signal.ITIMER_REAL, _PATIENCE, _PATIENCE)
            # Unlike os.write, it is not repeated after a signal.
            _write(self._fd.fileno(), _ONE, len(_ONE))
            signal.setitimer(signal.ITIMER_REAL, 0)

    def close(self) -> None:
        self._fd.close()
        EventFd._open -= 1
        if not EventFd._open:
            signal.signal(signal.SIGALRM, EventFd._handler)


class DeviceMemory(HostMemory):
    """`DeviceHost`."""

    def __init__(self, log: Callable[[str], None]) -> None:
        super().__init__(log)
        self.stores = 0
        """How often the model wrote into BARs: a device that does something, does."""
        self._files: dict[Identity, Shared[Identity]] = {}
        self._processes: dict[int, Shared[int]] = {}

    def allocate(self, name: str, sizes: Sequence[int]) -> tuple[Bar, ...]:
        return Bars(self, name, sizes).each

    def pin_file(self, file: HostFile, offset: int, length: int) -> FileMemory:
        if not isinstance(file, OpenFile):
            raise Errno(errno.EINVAL)
        shared = self._files.get(file.identity)
        if shared is None:
            try:
                shared = Shared(self._files, file.identity, file.reopen(os.O_RDWR))
            except OSError as error:
                raise refusal(error, errno.EINVAL) from None
        return FileMemory(shared, offset, length)

    def of_process(self, pid: int, address: int, length: int, is_bar: Callable[[Identity], bool]) -> ProcessMemory:
        """Returns memory of a process that lives. `is_bar` is that of `ProcessMemory`. Raises Errno."""
        shared = self._processes.get(pid)
        if shared is None or not shared.is_process_alive():  # it may be of a process before with that pid
            try:
                shared = Shared(self._processes, pid, Fd(os.pidfd_open(pid)))
            except OSError as error:
                raise refusal(error, errno.ESRCH) from None
        return ProcessMemory(shared, pid, address, length, is_bar)
