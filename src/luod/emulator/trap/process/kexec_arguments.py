"""The arguments of kexec_file_load(2) and kexec_load(2), as the model needs them (`KexecFiles`, `KexecSegment`).

Each is read when the model asks for it, as the kernel does: an earlier check decides before a later argument is looked
at.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import stat
import struct
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, overload

from luod.emulator.model.caller import IMAGE_FRONT, IMAGE_IN_MEMORY, KexecSegment
from luod.emulator.model.ports import Errno
from luod.emulator.trap.process.caller import Thread
from luod.emulator.trap.process.memory_files import OpenFile, close_elsewhere

_IMAGE_MAXIMUM: Final = 4 << 30
"""In bytes: KEXEC_FILE_SIZE_MAX of kernel/kexec_file.c."""
_ALLOCATION_MAXIMUM: Final = 4 << 20
"""In bytes: the most that kmalloc gives, for a copy of the command line."""


class KexecFiles:
    """The arguments of kexec_file_load(kernel_fd, initrd_fd, cmdline_len, cmdline, flags), read on demand."""

    def __init__(self, thread: Thread, arguments: Sequence[int]) -> None:
        self._thread = thread
        self._arguments = arguments

    def _regular(self, argument: int) -> OpenFile:
        fd = ctypes.c_int(argument & 0xFFFFFFFF).value
        if fd < 0:
            raise Errno(errno.EBADF)
        duplicate = self._thread.take(fd)
        try:
            file = OpenFile(duplicate)
        except OSError as error:  # of a file system that is not this user's, or whose server has ended
            close_elsewhere(duplicate)
            raise Errno(error.errno or errno.EIO) from None
        try:
            if fcntl.fcntl(file.fileno(), fcntl.F_GETFL) & os.O_ACCMODE == os.O_WRONLY:
                raise Errno(errno.EBADF)
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise Errno(errno.EINVAL)
            if file.open_for_writing():
                raise Errno(errno.ETXTBSY)
        except Errno:
            file.close()
            raise
        return file

    def kernel(self, accept: Callable[[bytes, int], object]) -> bytes:
        file = self._regular(self._arguments[0])
        try:
            with file.reopen(os.O_RDONLY) as source, open(source.detach(), "rb") as image:
                size = os.fstat(image.fileno()).st_size
                if size > _IMAGE_MAXIMUM:
                    raise Errno(errno.EFBIG)
                if not size:
                    return b""
                front = image.read(min(size, IMAGE_FRONT))
                accept(front, size)
                if size > IMAGE_IN_MEMORY:
                    raise Errno(errno.ENOMEM)
                return front + image.read(size - len(front))
        except OSError as error:
            raise Errno(error.errno or errno.EIO) from None
        finally:
            file.close()

    def initrd(self) -> int:
        file = self._regular(self._arguments[1])
        try:
            return file.size()
        finally:
            file.close()

    def command_line(self) -> bytes:
        if self._arguments[2] > _ALLOCATION_MAXIMUM:
            raise Errno(errno.ENOMEM)
        return self._thread.read(self._arguments[3], self._arguments[2])


@dataclass(frozen=True)
class Segment:
    """One segment of kexec_load. Sizes and addresses are in bytes."""

    thread: Thread
    buffer: int
    buffer_length: int
    address: int
    length: int

    def read(self) -> bytes:
        return self.thread.read(self.buffer, self.buffer_length)


class Segments(Sequence[KexecSegment]):
    """The array of segments of kexec_load. Each is read on demand, and raises Errno(EFAULT) then."""

    def __init__(self, thread: Thread, count: int, address: int, *, narrow: bool) -> None:
        self._thread = thread
        self._layout = struct.Struct("=4I" if narrow else "=4Q")
        # A count beyond what len() can return is refused like every other one that is too large.
        self._count = min(count, sys.maxsize)
        self._address = address

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> KexecSegment: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[KexecSegment]: ...
    def __getitem__(self, index: int | slice) -> KexecSegment | Sequence[KexecSegment]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(self._count))]
        if not 0 <= index < self._count:
            raise IndexError(index)
        raw = self._thread.read(self._address + index * self._layout.size, self._layout.size)
        return Segment(self._thread, *self._layout.unpack(raw))
