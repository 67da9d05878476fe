"""Recognises an open of /dev/liveupdate among trapped opens: the fallback for hosts without FUSE.

It recognises a path that spells the device. It does not recognise a link, a path relative to a directory fd, or
io_uring.
"""

from __future__ import annotations

import os
import posixpath
import struct
from collections.abc import Sequence
from typing import Final, Protocol

from luod.emulator.model.ports import PAGE, Errno
from luod.emulator.trap.seccomp.bpf import Call
from luod.uapi import liveupdate

_DEVICE: Final = liveupdate.DEVICE.encode()
_AT_FDCWD: Final = -100 & 0xFFFFFFFF
_PATH_MAX: Final = 4096


class Opener(Protocol):
    """The thread that makes the call (`trap.process`)."""

    @property
    def tid(self) -> int: ...

    def read(self, address: int, length: int) -> bytes:
        """Returns bytes of its memory. Raises Errno(EFAULT)."""
        ...


def opens_device(thread: Opener, call: Call, arguments: Sequence[int]) -> int | None:
    """Returns the flags (O_*) when the call opens the device itself; None when the host is to answer the call."""
    if call is Call.OPEN:
        directory, path_address, flags = _AT_FDCWD, arguments[0], arguments[1]
    else:
        directory, path_address, flags = arguments[0] & 0xFFFFFFFF, arguments[1], arguments[2]
    try:
        path = string_at(thread, path_address)
        if b"liveupdate" not in path:
            return None
        if call is Call.OPENAT2:
            (flags,) = struct.unpack("=Q", thread.read(arguments[2], 8))
    except Errno:
        return None
    if flags & (os.O_PATH | os.O_DIRECTORY):
        return None
    if not path.startswith(b"/"):
        if directory != _AT_FDCWD:
            return None
        try:
            path = posixpath.join(os.readlink(b"/proc/%d/cwd" % thread.tid), path)
        except OSError:
            return None
    return flags if posixpath.normpath(b"/" + path.lstrip(b"/")) == _DEVICE else None


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
