"""Reads and writes the memory of another process, as the kernel's copy_from_user and copy_to_user would.

Uses process_vm_readv and process_vm_writev, which respect read-only pages, unlike /proc/PID/mem. Nothing is cached: an
address has no meaning after an exec.
"""

from __future__ import annotations

import ctypes
import errno
import struct
from collections.abc import Callable
from typing import Final

from luod.emulator.model.ports import Errno

_SCRATCH_SIZE: Final = 16384


_IOVECS: Final = struct.Struct("=4Q")
"""Two `struct iovec`, of this process and of the other: address and length each."""

_scratch = bytearray(_SCRATCH_SIZE)
_scratch_address: Final = ctypes.addressof(ctypes.c_char.from_buffer(_scratch))
_iovecs = bytearray(_IOVECS.size)
_iovecs_address: Final = ctypes.addressof(ctypes.c_char.from_buffer(_iovecs))

_libc = ctypes.CDLL(None, use_errno=True)
_readv, _writev = _libc.process_vm_readv, _libc.process_vm_writev
_readv.restype = _writev.restype = ctypes.c_ssize_t
# Every call of the machine passes these. Objects that are made once take half the time of a conversion by argtypes.
_tid = ctypes.c_int()
_IOVEC_ARGUMENTS: Final = (
    ctypes.c_void_p(_iovecs_address),
    ctypes.c_ulong(1),
    ctypes.c_void_p(_iovecs_address + _IOVECS.size // 2),
    ctypes.c_ulong(1),
    ctypes.c_ulong(0),
)


def _transfer(function: Callable[..., int], tid: int, address: int, length: int) -> None:
    _tid.value = tid
    _IOVECS.pack_into(_iovecs, 0, _scratch_address, length, address, length)
    done = function(_tid, *_IOVEC_ARGUMENTS)
    if done == -1:
        # EFAULT. ESRCH: killed meanwhile. EPERM: access is not permitted, such as to an undumpable program.
        raise Errno(ctypes.get_errno())
    if done != length:
        raise Errno(errno.EFAULT)


def read(tid: int, address: int, length: int) -> bytes:
    """Returns `length` bytes at `address` in the process of thread `tid`.

    Raises Errno(EFAULT), Errno(ESRCH), Errno(EPERM).
    """
    parts = []
    while length > _SCRATCH_SIZE:
        _transfer(_readv, tid, address, _SCRATCH_SIZE)
        parts.append(bytes(_scratch))
        address += _SCRATCH_SIZE
        length -= _SCRATCH_SIZE
    _transfer(_readv, tid, address, length)
    last = bytes(_scratch[:length])
    return b"".join((*parts, last)) if parts else last


def write(tid: int, address: int, data: bytes) -> None:
    """Writes `data` at `address`. Bytes written before a fault stay. Raises the errnos of `read`."""
    length = len(data)
    if length > _SCRATCH_SIZE:
        for start in range(0, length, _SCRATCH_SIZE):
            write(tid, address + start, data[start : start + _SCRATCH_SIZE])
        return
    _scratch[:length] = data
    _transfer(_writev, tid, address, length)


def writable(tid: int, address: int, length: int) -> bool:
    """Returns whether `write` would succeed.

    Writes the present contents back. A store of another thread at that moment is lost.
    """
    try:
        write(tid, address, read(tid, address, length))
    except Errno:
        return False
    return True
