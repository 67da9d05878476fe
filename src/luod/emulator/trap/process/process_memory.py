"""Reads and writes the memory of another process, as the kernel's copy_from_user and copy_to_user would.

Uses process_vm_readv and process_vm_writev, which respect read-only pages, unlike /proc/PID/mem. Nothing is cached: an
address has no meaning after an exec.
"""

from __future__ import annotations

import ctypes
import errno
from collections.abc import Callable
from typing import Final

from luod.emulator.model.ports import Errno

_SCRATCH_SIZE: Final = 16384


class _Iovec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_uint64), ("length", ctypes.c_uint64))


_scratch = ctypes.create_string_buffer(_SCRATCH_SIZE)
_scratch_address: Final = ctypes.addressof(_scratch)
_local: Final = _Iovec(_scratch_address, 0)
_remote: Final = _Iovec(0, 0)
_local_address: Final = ctypes.addressof(_local)
_remote_address: Final = ctypes.addressof(_remote)

_libc = ctypes.CDLL(None, use_errno=True)
_readv, _writev = _libc.process_vm_readv, _libc.process_vm_writev
for _function in (_readv, _writev):
    _function.argtypes = (
        ctypes.c_int, ctypes.c_void_p, ctypes.c_ulong, ctypes.c_void_p, ctypes.c_ulong, ctypes.c_ulong
    )  # fmt: skip
    _function.restype = ctypes.c_ssize_t


def _transfer(function: Callable[..., int], tid: int, address: int, length: int) -> None:
    _local.length = _remote.length = length
    _remote.base = address
    done = function(tid, _local_address, 1, _remote_address, 1, 0)
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
    while length > 0:
        part = min(length, _SCRATCH_SIZE)
        _transfer(_readv, tid, address, part)
        parts.append(ctypes.string_at(_scratch_address, part))
        address += part
        length -= part
    return b"".join(parts)


def write(tid: int, address: int, data: bytes) -> None:
    """Writes `data` at `address`. Bytes written before a fault stay. Raises the errnos of `read`."""
    for start in range(0, len(data), _SCRATCH_SIZE):
        part = data[start : start + _SCRATCH_SIZE]
        ctypes.memmove(_scratch_address, part, len(part))
        _transfer(_writev, tid, address + start, len(part))


def writable(tid: int, address: int, length: int) -> bool:
    """Returns whether `write` would succeed.

    Writes the present contents back. A store of another thread at that moment is lost.
    """
    try:
        write(tid, address, read(tid, address, length))
    except Errno:
        return False
    return True
