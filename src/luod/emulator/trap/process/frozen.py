"""Recognises calls that a real kernel refuses because they would add or remove pages of a preserved file.

These are ftruncate(2), fallocate(2) and madvise(2) with MADV_REMOVE: the kernel freezes the page cache of a memfd from
PRESERVE_FD until the session ends. Where another check of the kernel comes first, the host makes it, and the answer
here is no. Writes past the end are not trapped (docs/divergences.md).
"""

from __future__ import annotations

import ctypes
from collections.abc import Container, Hashable, Sequence
from typing import Final

from luod.emulator.model.ports import PAGE
from luod.emulator.trap.process.caller import Thread
from luod.emulator.trap.process.mappings import flags, mappings
from luod.emulator.trap.seccomp.bpf import Call

_FALLOC_FL_KEEP_SIZE: Final = 1
_FALLOC_FL_PUNCH_HOLE: Final = 2
_MODES: Final = (0, _FALLOC_FL_KEEP_SIZE, _FALLOC_FL_KEEP_SIZE | _FALLOC_FL_PUNCH_HOLE)
"""The modes of fallocate(2) that tmpfs has."""
_MAX_OFFSET: Final = (1 << 63) - 1


def is_refused(
    thread: Thread, call: Call, arguments: Sequence[int], frozen: Container[Hashable], *, narrow: bool
) -> bool:
    """Returns whether the call fails with EPERM.

    `frozen` has the identities of the preserved files. `narrow`: a 64-bit argument takes two, the low half first.
    Raises Errno(ESRCH) when the thread is gone.
    """
    if call is Call.MADVISE:
        return _removes(thread, arguments[0], arguments[1], frozen)
    fd = arguments[0] & 0xFFFFFFFF
    if thread.identity(fd) not in frozen or not thread.opened_for_writing(fd):
        return False
    if call is Call.FALLOCATE:
        mode = arguments[1] & 0xFFFFFFFF
        offset, length = (_wide(arguments[i : i + 2]) for i in (2, 4)) if narrow else map(_signed, arguments[2:4])
        return mode in _MODES and offset >= 0 and length > 0 and offset + length <= _MAX_OFFSET
    if call is Call.FTRUNCATE64:
        size = _wide(arguments[1:3])
    else:
        size = ctypes.c_int32(arguments[1]).value if narrow else _signed(arguments[1])
    return size >= 0 and size != thread.size(fd)


def _removes(thread: Thread, start: int, length: int, frozen: Container[Hashable]) -> bool:
    """Returns whether MADV_REMOVE reaches a preserved file. The host refuses private, read-only and locked mappings."""
    if start % PAGE:
        return False
    return any(
        mapping.file in frozen and {"sh", "mw"} <= (kernels := flags(thread.tid, mapping)) and "lo" not in kernels
        for mapping in mappings(thread.tid, start, start + length)
    )


def _signed(argument: int) -> int:
    return ctypes.c_int64(argument).value


def _wide(halves: Sequence[int]) -> int:
    low, high = (half & 0xFFFFFFFF for half in halves)
    return _signed(low | high << 32)
