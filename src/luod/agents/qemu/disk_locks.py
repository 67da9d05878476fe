"""Waits for disks of a guest that another program has locked, so that QEMU would refuse to continue the guest.

QEMU has no query for it. It is looked at before luod records that the guest runs: a guest that waits here is still in
its session, and another QEMU can restore it. QEMU takes the locks itself when it continues the guest, so a program that
opens the disk in between is refused by QEMU only.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from luod.agents.guests.carried import Report
from luod.agents.guests.monitor import Monitor
from luod.agents.guests.resuming import require_alive
from luod.errors import QmpFailed, QmpUnknown
from luod.linux import Fd

_PAUSE: Final = 0.5
"""The seconds between two looks at a disk that is locked."""
_FILES: Final = ("file", "host_device")
"""The drivers of QEMU that lock what they open."""
_WRITES: Final = 101
_FORBIDS_WRITES: Final = 201
"""The bytes of an image that QEMU and its tools lock, for reading: while they may write to it, and while they let no
other program write. At 100 and at 200 begins a byte for each permission; that of writing is number 1.
"""
_FLOCK: Final = "@hhqqi4x"
"""struct flock: type, whence, start, length, pid."""


async def free(qmp: Monitor, arguments: Sequence[str], report: Report, has_ended: Callable[[], bool]) -> None:
    """Returns when no other program has a disk of the guest locked against QEMU. The guest is loaded, and paused.

    `arguments` are those of QEMU. Raises QemuEnded: it has. Raises QemuLate: it does not answer.
    """
    # A guest that shares a disk, in whatever notation, may write beside others, and QEMU decides for each disk.
    shares = any("share-rw" in word for word in arguments)
    held = (_FORBIDS_WRITES,) if shares else (_WRITES, _FORBIDS_WRITES)
    reported: tuple[str, ...] = ()
    while found := await _locked(qmp, held):
        require_alive(has_ended)
        if found != reported:
            report(
                f"waits, paused: another program has {', '.join(found)} open and locked. End that program. Ending this "
                "one keeps the guest in its session"
            )
        reported = found
        await asyncio.sleep(_PAUSE)


async def _locked(qmp: Monitor, held: Sequence[int]) -> tuple[str, ...]:
    """Returns the images that the guest writes to, and of which another program has locked one of these bytes."""
    try:
        files = await qmp.asked("query-named-block-nodes", _written, {"flat": True})
    except (QmpFailed, QmpUnknown):
        return ()
    return tuple([file for file in files if await asyncio.to_thread(_is_locked, file, held)])


def _written(answer: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    written = (str(node["file"]) for node in answer if node["drv"] in _FILES and not node["ro"])
    return tuple(sorted(set(written)))


def _is_locked(path: str, held: Sequence[int]) -> bool:
    try:
        with Fd(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)) as file:
            return any(_has_lock(file, byte) for byte in held)
    except OSError:
        return False  # QEMU will say what is wrong with it


def _has_lock(file: Fd, byte: int) -> bool:
    asked = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, byte, 1, 0)
    found = struct.unpack(_FLOCK, fcntl.fcntl(file.fileno(), fcntl.F_OFD_GETLK, asked))
    return bool(found[0] != fcntl.F_UNLCK)
