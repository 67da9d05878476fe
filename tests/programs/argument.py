"""Argument memory for raw system calls: it ends where a page that cannot be touched begins, and may be read-only.

Python's own buffers cannot be read-only, cut off in the middle, or followed by nothing. Used by `questions`, inside a
machine; standard library only.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import struct
from types import TracebackType
from typing import Final, Self

PAGE: Final = mmap.PAGESIZE
PROT_NONE: Final = 0
MADV_REMOVE: Final = 9
_PROCESS_MADVISE: Final = 440
_MAP_FIXED: Final = 0x10

_libc: Final = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
_libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
_libc.ioctl.argtypes = [ctypes.c_int, ctypes.c_ulong, ctypes.c_void_p]
_libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_long, ctypes.c_long]


def _checked(result: int) -> int:
    if result == -1:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


class Mapping:
    """A mapping made by mmap(2) itself; Python's own would keep a duplicate of the fd."""

    def __init__(self, fd: int, length: int, protection: int, flags: int) -> None:
        """OSError with mmap's errno. The fd stays the caller's."""
        address = _libc.mmap(None, length, protection, flags, fd, 0)
        if address == ctypes.c_void_p(-1).value:
            _checked(-1)
        self.address: int = address
        self.length = length

    def protect(self, offset: int, length: int, protection: int) -> None:
        _checked(_libc.mprotect(self.address + offset, length, protection))

    def advise(self, advice: int, length: int | None = None) -> None:
        _checked(_libc.madvise(self.address, self.length if length is None else length, advice))

    def advise_by_process(self, advice: int) -> int:
        """Calls process_madvise(2) with a pidfd of this process. Returns the number of bytes that were advised."""
        vector = struct.pack("=2Q", self.address, self.length)
        process = os.pidfd_open(os.getpid())
        try:
            return _checked(_libc.syscall(_PROCESS_MADVISE, process, vector, ctypes.c_long(1), advice, 0))
        finally:
            os.close(process)

    def read(self, offset: int, length: int) -> bytes:
        return ctypes.string_at(self.address + offset, length)

    def write(self, offset: int, data: bytes) -> None:
        ctypes.memmove(self.address + offset, data, len(data))

    def close(self) -> None:
        if self.length:
            _checked(_libc.munmap(self.address, self.length))
            self.length = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def remove_across(first: str, other: int, file: int) -> None:
    """Maps two pages of `file` behind a page, and calls madvise(2) with MADV_REMOVE for the three.

    The page before is a "hole", "private" memory, or of `other`, "shared".
    """
    with Mapping(-1, 3 * PAGE, PROT_NONE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as place:

        def put(offset: int, length: int, flags: int, fd: int) -> None:
            _libc.mmap(place.address + offset, length, mmap.PROT_READ | mmap.PROT_WRITE, flags | _MAP_FIXED, fd, 0)

        put(PAGE, 2 * PAGE, mmap.MAP_SHARED, file)
        match first:
            case "hole":
                _checked(_libc.munmap(place.address, PAGE))
            case "private":
                put(0, PAGE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1)
            case "shared":
                put(0, PAGE, mmap.MAP_SHARED, other)
        place.advise(MADV_REMOVE)


class Argument(Mapping):
    """The bytes of a call's argument, up against a page that cannot be touched: a call that goes too far gets EFAULT.

    `mapped` bytes of them are there, the others lie behind the border. With `writable=False` they can only be read.
    """

    def __init__(self, data: bytes, *, writable: bool = True, mapped: int | None = None) -> None:
        self.size = len(data) if mapped is None else mapped
        border = -(-max(self.size, 1) // PAGE) * PAGE
        super().__init__(-1, border + PAGE, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self.start = border - self.size
        self.write(self.start, data[: self.size])
        self.protect(border, PAGE, PROT_NONE)
        if not writable:
            self.protect(0, border, mmap.PROT_READ)

    @property
    def pointer(self) -> int:
        return self.address + self.start

    def bytes(self) -> bytes:
        """Returns the contents after the call."""
        return self.read(self.start, self.size)


def ioctl(fd: int, command: int, pointer: int) -> int:
    """Calls ioctl(2) itself, with any address as its argument."""
    return _checked(_libc.ioctl(fd, command, pointer))


def fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    """Calls fallocate(2) itself: Python's os.posix_fallocate has no mode."""
    _checked(_libc.fallocate(fd, mode, offset, length))
