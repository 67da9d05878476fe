"""Facts about a thread that /proc shows: the identity of its files, fields of its status, its limit of fds."""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import struct
from typing import Final

from luod.emulator.model.ports import Errno
from luod.emulator.trap.process.placeholder import Identity

_AT_STATX_DONT_SYNC: Final = 0x4000
_STATX_INO: Final = 0x100

# Every call of the machine uses it, so the function and its arguments are made once.
_statx = ctypes.CDLL(None, use_errno=True).statx
_statx_buffer = ctypes.create_string_buffer(256)
_AT_FDCWD: Final = ctypes.c_int(-100)
_DONT_SYNC: Final = ctypes.c_int(_AT_STATX_DONT_SYNC)
_INODE: Final = ctypes.c_uint(_STATX_INO)
_NOTHING: Final = ctypes.c_uint(0)
_STATX_DEVICE: Final = struct.Struct("=32xQ96xII")
"""stx_ino, stx_dev_major, stx_dev_minor at their offsets in `struct statx`."""


def identify(path: bytes) -> Identity:
    """Returns (st_dev, st_ino) of the file at `path`, from this kernel's cache. Raises OSError.

    The file system is not asked: the supervisor serves one itself, and would wait for its own answer.

    A FUSE file system of another user namespace, as in a plain user's machine, shows only its st_dev: (st_dev, 0).
    """
    if _statx(_AT_FDCWD, path, _DONT_SYNC, _INODE, _statx_buffer) != 0:
        ctypes.memset(_statx_buffer, 0, len(_statx_buffer))
        if _statx(_AT_FDCWD, path, _DONT_SYNC, _NOTHING, _statx_buffer) != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
    inode, major, minor = _STATX_DEVICE.unpack_from(_statx_buffer)
    return (os.makedev(major, minor), inode)


def status_field(tid: int, field: str) -> str:
    """Returns the value of `field`, such as "Tgid:", in the thread's /proc status.

    Raises Errno(ESRCH) or OSError when the thread is gone.
    """
    with open(f"/proc/{tid}/status", encoding="utf-8", errors="replace") as lines:
        for line in lines:
            if line.startswith(field):
                return line[len(field) :].strip()
    raise Errno(errno.ESRCH)


def fd_limit(tid: int) -> int:
    """Returns the soft RLIMIT_NOFILE of a thread. Raises OSError when it is gone."""
    try:
        return resource.prlimit(tid, resource.RLIMIT_NOFILE)[0]
    except PermissionError:
        # prlimit(2) needs CAP_SYS_RESOURCE for a process of another uid, which containers lack. /proc does not.
        with open(f"/proc/{tid}/limits", encoding="ascii") as lines:
            return next(int(line.split()[3]) for line in lines if line.startswith("Max open files"))
