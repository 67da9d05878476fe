"""Recognises an open of /dev/liveupdate among trapped opens: the fallback for hosts without FUSE.

A socket stands in for the node (`machine.nodes`). The host's kernel opens no socket, and otherwise treats it like every
file that is no directory. So it answers here which file a path means and whether the flags are valid, and answers the
caller of an open that fails for another reason than the socket. Not recognised are links whose own name lacks the
device's, and io_uring.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Sequence
from typing import Final, Protocol

from luod.emulator.model.ports import PAGE, Errno
from luod.emulator.trap.seccomp.bpf import Call
from luod.linux import Fd, syscall

_AT_FDCWD: Final = -100 & 0xFFFFFFFF
_PATH_MAX: Final = 4096
_NAME: Final = b"liveupdate"
_CREAT: Final = os.O_CREAT | os.O_WRONLY | os.O_TRUNC
_HOW: Final = struct.Struct("=3Q")
"""`struct open_how`: flags, mode, resolve."""
_RESOLVE_IN_ROOT: Final = 0x10
_RESOLVE_CACHED: Final = 0x20
_LOOK_UP: Final = os.O_PATH | os.O_CLOEXEC


class Opener(Protocol):
    """The thread that makes the call (`trap.process`)."""

    @property
    def tid(self) -> int: ...

    def read(self, address: int, length: int) -> bytes:
        """Returns bytes of its memory. Raises Errno(EFAULT)."""
        ...


def opens_device(thread: Opener, call: Call, arguments: Sequence[int], node: tuple[int, int]) -> int | None:
    """Returns the flags (O_*) when the call opens the device itself; None when the host is to answer the call.

    `node` is the socket's (st_dev, st_ino).
    """
    directory, how = _AT_FDCWD, b""
    match call:
        case Call.CREAT:
            address, flags = arguments[0], _CREAT
        case Call.OPEN:
            address, flags = arguments[0], arguments[1]
        case _:
            directory, address, flags = arguments[0] & 0xFFFFFFFF, arguments[1], arguments[2]
    try:
        path = string_at(thread, address)
        if _NAME not in path:
            return None
        resolve = 0
        if call is Call.OPENAT2:
            if not _HOW.size <= arguments[3] <= PAGE:
                return None
            how = thread.read(arguments[2], arguments[3])
            flags, _, resolve = _HOW.unpack_from(how)
        with _look_up(thread.tid, directory, path, flags & os.O_NOFOLLOW, resolve & ~_RESOLVE_CACHED) as found:
            status = os.fstat(found.fileno())
            if (status.st_dev, status.st_ino) != node or not _only_the_socket_refuses(found, flags, how):
                return None
    except (Errno, OSError):
        return None
    return flags


def _look_up(tid: int, directory: int, path: bytes, flags: int, resolve: int) -> Fd:
    """Returns the file that `path` means for the thread, as an O_PATH fd. Raises OSError."""
    place = b"/proc/%d/cwd" % tid if directory == _AT_FDCWD else b"/proc/%d/fd/%d" % (tid, directory)
    if path.startswith(b"/") and not resolve & _RESOLVE_IN_ROOT:
        # Of the machine, and not of this process.
        place, resolve = b"/proc/%d/root" % tid, resolve | _RESOLVE_IN_ROOT
    with Fd(os.open(place, _LOOK_UP)) as base:
        how = _HOW.pack(_LOOK_UP | flags, 0, resolve)
        return Fd(syscall("openat2", base.fileno(), path, how, len(how)))


def _only_the_socket_refuses(found: Fd, flags: int, how: bytes) -> bool:
    """Returns whether the host's kernel would open a device in place of the socket, with these flags.

    `how` is the structure of openat2(2); empty for the older calls, which ignore invalid flags.
    """
    path = b"/proc/self/fd/%d" % found.fileno()
    try:
        if how:
            plain = _HOW.pack(flags & ~os.O_NOFOLLOW, _HOW.unpack_from(how)[1], 0) + how[_HOW.size :]
            opened = syscall("openat2", ctypes.c_int(_AT_FDCWD), path, plain, len(plain))
        else:
            opened = os.open(path, ctypes.c_int(flags & ~os.O_NOFOLLOW & 0xFFFFFFFF).value)
    except OSError as error:
        return error.errno == errno.ENXIO
    os.close(opened)  # with O_PATH
    return False


def string_at(thread: Opener, address: int) -> bytes:
    """Returns the NUL-terminated string at `address`, read page by page: the next page may be missing."""
    found = b""
    while len(found) < _PATH_MAX:
        part = thread.read(address, PAGE - address % PAGE)
        text, end, _ = part.partition(b"\0")
        found += text
        if end:
            return found
        address += len(part)
    return found
