"""Signals to children that are not reaped yet, and their exit status. No failure of these calls is raised.

Standard library only.
"""

from __future__ import annotations

import contextlib
import os
import signal

from luod.static import Final

_PF_EXITING: Final = 0x4


def end(pid: int) -> None:
    """Kills a child, and reaps it."""
    send(pid, signal.SIGKILL)
    reap(pid)


def send(pid: int, number: int) -> None:
    """Sends a signal to a child that is not reaped yet."""
    with contextlib.suppress(OSError):
        os.kill(pid, number)


def reap(pid: int) -> int | None:
    """Waits for a child's end. Returns its exit status; None if the kernel does not report it."""
    try:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    except OSError:
        return None


def has_been_reaped(pid: int) -> bool:
    """Reaps a child if it has ended. Returns whether it is gone."""
    try:
        return os.waitpid(pid, os.WNOHANG) != (0, 0)
    except OSError:
        return True


def is_ending(pid: int) -> bool:
    """Returns whether a process was killed, or has begun to end."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as stat:
            flags = int(stat.read().rpartition(")")[2].split()[6])
        with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as status:
            pending = [int(line.split()[1], 16) for line in status if line.startswith(("SigPnd:", "ShdPnd:"))]
    except (OSError, ValueError, IndexError):
        return False
    return bool(flags & _PF_EXITING) or any(mask >> (signal.SIGKILL - 1) & 1 for mask in pending)
