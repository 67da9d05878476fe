"""The arguments of kexec_file_load(2) and kexec_load(2), as the model needs them (`KexecFiles`, `KexecSegment`).

Each is read when the model asks for it, as the kernel does: an earlier check decides before a later argument is looked
at.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import stat
import struct
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, overload

from luod.emulator.model.caller import IMAGE_FRONT, IMAGE_IN_MEMORY, KexecSegment
from luod.emulator.model.ports import Errno
from luod.emulator.trap.process.caller import Thread
from luod.emulator.trap.process.memory_files import OpenFile

_IMAGE_MAXIMUM: Final = 4 << 30
"""In bytes: KEXEC_FILE_SIZE_MAX of kernel/kexec_file.c."""
_ALLOCATION_MAXIMUM: Final = 4 << 20
"""In bytes: the most that kmalloc gives, for a copy of the command line."""
_BUFFER: Final = 1 << 18
"""In bytes, of reads of an image."""


class KexecFiles:
    """The arguments of kexec_file_load(kernel_fd, initrd_fd, cmdline_len, cmdline, flags), read on demand."""

    def __init__(self, thread: Thread, arguments: Sequence[int]) -> None:
        self._thread = thread
        self._arguments = arguments

    @contextlib.contextmanager
    def _regular(self, argument: int) -> Iterator[OpenFile]:
        """Yields the file of an fd. Every OSError of its use becomes an Errno.

        The file system may be one of FUSE, whose server is a program of the machine that may end at any moment.
        """
        fd = ctypes.c_int(argument & 0xFFFFFFFF).value
        if fd < 0:
            raise Errno(errno.EBADF)
        duplicate = self._thread.take(fd)
        try:
            file = OpenFile(duplicate)
            if fcntl.fcntl(file.fileno(), fcntl.F_GETFL) & os.O_ACCMODE == os.O_WRONLY:
                raise Errno(errno.EBADF)
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise Errno(errno.EINVAL)
            if file.open_for_writing():
                raise Errno(errno.ETXTBSY)
            yield file
        except OSError as error:
            raise Errno(error.errno or errno.EIO) from None
        finally:
            with contextlib.suppress(OSError):  # of the flush
                duplicate.close()

    def kernel(self, accept: Callable[[bytes, int], object]) -> bytes:
        with (
            self._regular(self._arguments[0]) as file,
            file.reopen(os.O_RDONLY) as source,
            # With a size of its buffer, open() does not ask the file system whether the file is a terminal.
            open(source.detach(), "rb", buffering=_BUFFER) as image,
        ):
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

    def initrd(self) -> int:
        with self._regular(self._arguments[1]) as file:
            return file.size()

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
