"""Memory that emulated devices have and reach: BARs, files and address spaces that DMA targets, eventfds.

Implements `DeviceHost`, and what `DeviceCaller` returns. The BARs of a device are one sparse memfd with the layout of
its VFIO file, so that FUSE can let the kernel map it in place of that file.
"""

from __future__ import annotations

import errno
import mmap
import os
import select
import signal
from collections.abc import Callable, Sequence

from luod import linux
from luod.emulator.model.ports import Errno, HostFile
from luod.emulator.trap.process import process_memory
from luod.emulator.trap.process.mappings import mappings
from luod.emulator.trap.process.memory_files import HostMemory, OpenFile
from luod.emulator.trap.process.placeholder import Identity
from luod.linux import Fd
from luod.uapi import vfio


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


class FileMemory:
    """`Memory` in a process's memfd. An open file description of its own keeps the memfd."""

    def __init__(self, file: Fd, offset: int, length: int) -> None:
        """Takes ownership of `file`."""
        self._file = file
        self._offset = offset
        self.size = length

    def pin(self, *, writable: bool, bars_too: bool = False) -> None:
        if self._offset + self.size > os.fstat(self._file.fileno()).st_size:
            raise Errno(errno.EINVAL)

    def read(self, offset: int, length: int) -> bytes:
        try:
            data = os.pread(self._file.fileno(), length, self._offset + offset)
        except OverflowError:
            raise Errno(errno.EFAULT) from None
        if len(data) < length:  # Truncated since. A real kernel would still have the pages.
            raise Errno(errno.EFAULT)
        return data

    def write(self, offset: int, data: bytes) -> None:
        try:
            os.pwrite(self._file.fileno(), data, self._offset + offset)
        except (OSError, OverflowError):
            raise Errno(errno.EFAULT) from None

    def close(self) -> None:
        self._file.close()


class ProcessMemory:
    """`Memory` at an address of a process, valid while the process lives. Owns a pidfd, which guards against a reused
    pid.
    """

    def __init__(self, process: Fd, pid: int, address: int, length: int, is_bar: Callable[[Identity], bool]) -> None:
        """`is_bar` returns whether a file is the supervisor's own, and so a mapping of it that of a BAR."""
        self._process = process
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
        try:
            signal.pidfd_send_signal(self._process.fileno(), 0)
        except OSError:
            raise Errno(errno.EFAULT) from None

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
        self._process.close()


class EventFd:
    """A duplicate of a process's eventfd. Owns it."""

    def __init__(self, fd: Fd) -> None:
        self._fd = fd
        self._room = select.poll()
        self._room.register(fd.fileno(), select.POLLOUT)

    def signal(self) -> None:
        # A write to a full counter would block, and its reader is notified anyway.
        if self._room.poll(0):
            os.write(self._fd.fileno(), (1).to_bytes(8, "little"))

    def close(self) -> None:
        self._fd.close()


class DeviceMemory(HostMemory):
    """`DeviceHost`."""

    def __init__(self, log: Callable[[str], None]) -> None:
        super().__init__(log)
        self.stores = 0
        """How often the model wrote into BARs: a device that does something, does."""

    def allocate(self, name: str, sizes: Sequence[int]) -> tuple[Bar, ...]:
        return Bars(self, name, sizes).each

    def pin_file(self, file: HostFile, offset: int, length: int) -> FileMemory:
        if not isinstance(file, OpenFile):
            raise Errno(errno.EINVAL)
        try:
            return FileMemory(file.reopen(os.O_RDWR), offset, length)
        except OSError as error:
            raise Errno(error.errno or errno.EINVAL) from None
