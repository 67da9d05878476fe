"""Recognises calls that a real kernel refuses because they would add or remove pages of a preserved file.

These are truncate(2) by the path of an fd, ftruncate(2), fallocate(2), and madvise(2) and process_madvise(2) with
MADV_REMOVE: the kernel freezes the page cache of a memfd from PRESERVE_FD until the session ends. Where another check
of the kernel comes first, the host makes it, and the answer here is no. Writes past the end and io_uring are not
trapped (docs/divergences.md).
"""

from __future__ import annotations

import ctypes
import os
import posixpath
import re
import struct
from collections.abc import Container, Hashable, Iterable, Sequence
from typing import Final

from luod.emulator.model.ports import PAGE, Errno
from luod.emulator.trap.process.caller import Thread
from luod.emulator.trap.process.mappings import Mapping, flags, mappings
from luod.emulator.trap.process.procfs import identify
from luod.emulator.trap.seccomp.bpf import Call
from luod.emulator.trap.seccomp.opening import string_at

TRAPPED: Final = frozenset(
    {
        Call.TRUNCATE,
        Call.TRUNCATE64,
        Call.FTRUNCATE,
        Call.FTRUNCATE64,
        Call.FALLOCATE,
        Call.MADVISE,
        Call.PROCESS_MADVISE,
    }
)
"""The calls that are trapped for this."""

_FALLOC_FL_KEEP_SIZE: Final = 1
_FALLOC_FL_PUNCH_HOLE: Final = 2
_MODES: Final = (0, _FALLOC_FL_KEEP_SIZE, _FALLOC_FL_KEEP_SIZE | _FALLOC_FL_PUNCH_HOLE)
"""The modes of fallocate(2) that tmpfs has."""
_MAX_OFFSET: Final = (1 << 63) - 1
_ADDRESSES: Final = (1 << 64) - 1
"""The last end of a range of addresses that does not wrap around."""
_FD_PATH: Final = re.compile(
    rb"/proc/(?:self|thread-self|(?P<pid>[0-9]+))(?:/task/[0-9]+)?/fd/(?P<fd>[0-9]+)|/dev/fd/(?P<dev>[0-9]+)"
)
"""The paths that name an fd, in their usual spelling."""
_IOV_MAX: Final = 1024
_IOVEC: Final = struct.Struct("=2Q")
_IOVEC_32: Final = struct.Struct("=2I")
"""`struct iovec`: address and length."""


def is_refused(
    thread: Thread, call: Call, arguments: Sequence[int], frozen: Container[Hashable], *, narrow: bool
) -> bool:
    """Returns whether the call fails with EPERM.

    `frozen` has the identities of the preserved files. `narrow`: a 64-bit argument takes two, the low half first.
    Raises Errno(ESRCH) when the thread is gone.
    """
    if call is Call.MADVISE:
        return _removes(thread, [(arguments[0], arguments[1])], frozen)
    if call is Call.PROCESS_MADVISE:
        return _removes(thread, _vector(thread, arguments, narrow=narrow), frozen)
    if call in (Call.TRUNCATE, Call.TRUNCATE64):
        return _cuts(thread, arguments[0], _size(call, arguments, narrow=narrow), frozen)
    fd = arguments[0] & 0xFFFFFFFF
    if thread.identity(fd) not in frozen or not thread.opened_for_writing(fd):
        return False
    if call is Call.FALLOCATE:
        mode = arguments[1] & 0xFFFFFFFF
        offset, length = (_wide(arguments[i : i + 2]) for i in (2, 4)) if narrow else map(_signed, arguments[2:4])
        return mode in _MODES and offset >= 0 and length > 0 and offset + length <= _MAX_OFFSET
    size = _size(call, arguments, narrow=narrow)
    return size >= 0 and size != thread.size(fd)


def _size(call: Call, arguments: Sequence[int], *, narrow: bool) -> int:
    if call in (Call.TRUNCATE64, Call.FTRUNCATE64):
        return _wide(arguments[1:3])
    return ctypes.c_int32(arguments[1]).value if narrow else _signed(arguments[1])


def _cuts(thread: Thread, address: int, size: int, frozen: Container[Hashable]) -> bool:
    """Returns whether truncate(2) changes the size of a preserved file that its path names by an fd.

    Other paths are not looked up: they may lead to file systems that wait for the supervisor.
    """
    try:
        named = _FD_PATH.fullmatch(posixpath.normpath(b"/" + string_at(thread, address).lstrip(b"/")))
    except Errno:
        return False
    if named is None:
        return False
    process = b"/proc/%d" % thread.tid
    if named["pid"]:
        process += b"/root/proc/" + named["pid"]
    path = process + b"/fd/" + (named["fd"] or named["dev"])
    try:
        return identify(path) in frozen and size >= 0 and size != os.stat(path).st_size
    except OSError:
        return False


def _vector(thread: Thread, arguments: Sequence[int], *, narrow: bool) -> list[tuple[int, int]]:
    """Returns the ranges of process_madvise(2), start and length each; none where the host refuses the call.

    The kernel takes MADV_REMOVE only for the caller's own memory.
    """
    pidfd, address, count, _, flags = arguments[:5]
    if flags & 0xFFFFFFFF or count > _IOV_MAX or not thread.shares_memory_with(ctypes.c_int32(pidfd).value):
        return []
    layout = _IOVEC_32 if narrow else _IOVEC
    try:
        ranges = list(layout.iter_unpack(thread.read(address, count * layout.size)))
    except Errno:
        return []
    negative = 1 << 31 if narrow else 1 << 63
    return [] if any(length >= negative for _, length in ranges) else ranges


def _removes(thread: Thread, ranges: Iterable[tuple[int, int]], frozen: Container[Hashable]) -> bool:
    """Returns whether MADV_REMOVE of the ranges, start and length each, comes to a preserved file before the host would
    refuse it.

    Of mappings that the kernel would punch before, nothing is punched (docs/divergences.md).
    """
    for start, length in ranges:
        end = start + -(-length // PAGE) * PAGE
        if start % PAGE or end > _ADDRESSES:
            return False
        before: list[Mapping] = []
        covered = start
        for mapping in mappings(thread.tid, start, end):
            if mapping.permissions[3] != "s":
                return False
            before.append(mapping)
            if mapping.file in frozen:
                return all(_can_punch(thread, each) for each in before)
            if mapping.start <= covered:
                covered = mapping.end
        if covered < end:
            return False  # a hole is ENOMEM at the range's end, and ends the call
    return False


def _can_punch(thread: Thread, mapping: Mapping) -> bool:
    """Returns whether the host would not refuse a shared mapping: it refuses read-only and locked ones."""
    kernels = flags(thread.tid, mapping)
    return {"sh", "mw"} <= kernels and "lo" not in kernels


def _signed(argument: int) -> int:
    return ctypes.c_int64(argument).value


def _wide(halves: Sequence[int]) -> int:
    low, high = (half & 0xFFFFFFFF for half in halves)
    return _signed(low | high << 32)
