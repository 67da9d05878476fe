"""Reads and writes the memory of another process, as the kernel's copy_from_user and copy_to_user would.

By process_vm_readv and process_vm_writev: unlike /proc/PID/mem they respect read-only pages. Nothing is cached: an
address means nothing after an exec. Called by `trap.caller`.
"""

from __future__ import annotations

import ctypes
import errno
from typing import Final

from luod.emulator.model.ports import Errno
from luod.linux import syscall

_SCRATCH_SIZE: Final = 16384


class _Iovec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_uint64), ("length", ctypes.c_uint64))


_scratch = ctypes.create_string_buffer(_SCRATCH_SIZE)
_scratch_address: Final = ctypes.addressof(_scratch)
_local: Final = _Iovec(_scratch_address, 0)
_remote: Final = _Iovec(0, 0)
_local_pointer: Final = ctypes.byref(_local)
_remote_pointer: Final = ctypes.byref(_remote)


def _transfer(name: str, tid: int, address: int, length: int) -> None:
    _local.length = _remote.length = length
    _remote.base = address
    try:
        done = syscall(name, tid, _local_pointer, 1, _remote_pointer, 1, 0)
    except OSError as error:
        # ESRCH: killed meanwhile; EPERM: not ours to look into, such as a program that made itself undumpable.
        raise Errno(error.errno or errno.EFAULT) from None
    if done != length:
        raise Errno(errno.EFAULT)


def read(tid: int, address: int, length: int) -> bytes:
    """`length` bytes at `address` in the process of thread `tid`. Errno(EFAULT), Errno(ESRCH), Errno(EPERM)."""
    parts = []
    while length > 0:
        part = min(length, _SCRATCH_SIZE)
        _transfer("process_vm_readv", tid, address, part)
        parts.append(ctypes.string_at(_scratch_address, part))
        address += part
        length -= part
    return b"".join(parts)


def write(tid: int, address: int, data: bytes) -> None:
    """Writes `data` at `address`; what was written before a fault stays. Errno as `read`."""
    for start in range(0, len(data), _SCRATCH_SIZE):
        part = data[start : start + _SCRATCH_SIZE]
        ctypes.memmove(_scratch_address, part, len(part))
        _transfer("process_vm_writev", tid, address + start, len(part))


def writable(tid: int, address: int, length: int) -> bool:
    """Whether `write` would work: writes back what is there; what another thread writes at that moment is lost."""
    try:
        write(tid, address, read(tid, address, length))
    except Errno:
        return False
    return True
