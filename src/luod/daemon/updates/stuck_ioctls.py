"""Who is inside an ioctl on a session: such a process holds reboot(2), which then cannot even be killed (H17).

The kernel says so in /proc/PID/task/TID/syscall. This module matters when a jump takes too long; it ends those that
take part in updates, and every process of another user than root: whoever came by a session's fd could else keep the
machine between two kernels, with every guest paused. Root's other processes are named, no more. Whoever is ended loses
nothing that the next kernel would have had: all processes end with this one, and what is preserved is the session's,
of which luod has an fd.
"""

from __future__ import annotations

import os
import platform
import signal
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from luod.linux import Fd

_IOCTL: Final = {"x86_64": 16, "aarch64": 29}
_LIVEUPDATE: Final = 0xBA


@dataclass(frozen=True)
class Stuck:
    """A process that holds the jump. `ended`: it was sent SIGKILL."""

    pid: int
    command: str
    ended: bool


def in_session_ioctl(pid: int, proc: Path = Path("/proc")) -> bool:
    """Whether a thread of the process is in an ioctl of /dev/liveupdate or a session now. False when it is gone."""
    number = _IOCTL.get(platform.machine())
    try:
        threads = os.listdir(proc / str(pid) / "task")
    except OSError:
        return False
    for thread in threads:
        try:
            words = (proc / str(pid) / "task" / thread / "syscall").read_text(encoding="ascii").split()
        except OSError:
            continue
        # NUMBER ARGUMENT…; "running" and "-1 …" are no call.
        if len(words) > 2 and words[0] == str(number) and int(words[2], 16) >> 8 & 0xFF == _LIVEUPDATE:
            return True
    return False


def end(participants: Mapping[int, Fd], proc: Path = Path("/proc")) -> Iterator[Stuck]:
    """Ends each stuck process that is one of `participants`, pidfds by pid, or whose real uid is not 0; yields it, and
    the others that are stuck.
    """
    for entry in os.listdir(proc):
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        pid = int(entry)
        try:
            # First, so that all that is read is of the process that is ended: if its pid went to another, this is dead.
            pidfd = Fd(os.pidfd_open(pid))
        except OSError:
            continue
        with pidfd:
            if not in_session_ioctl(pid, proc):
                continue
            command = _command(pid, proc)
            may_end = _signal(participants.get(pid), 0) or _real_uid(pid, proc) != 0
            if not _signal(pidfd, signal.SIGKILL if may_end else 0):
                continue
        yield Stuck(pid, command, may_end)


def _signal(pidfd: Fd | None, number: int) -> bool:
    """False: there is no such process any more."""
    if pidfd is None:
        return False
    try:
        signal.pidfd_send_signal(pidfd.fileno(), number)
    except ProcessLookupError:
        return False
    return True


def _real_uid(pid: int, proc: Path) -> int:
    """0 where it cannot be read: it is gone."""
    try:
        with open(proc / str(pid) / "status", encoding="utf-8", errors="replace") as status:
            return next((int(line.split()[1]) for line in status if line.startswith("Uid:")), 0)
    except OSError:
        return 0


def _command(pid: int, proc: Path) -> str:
    try:
        return (proc / str(pid) / "comm").read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return "?"
