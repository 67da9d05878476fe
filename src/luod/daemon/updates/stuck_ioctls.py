"""Finds processes inside an ioctl on a session: they block reboot(2), which cannot even be killed (docs/hazards.md,
H17).

/proc/PID/task/TID/syscall shows it. This module acts when a kexec takes too long. It kills such processes of
participants, and those of every user except root: a holder of a session's fd could otherwise keep the machine between
two kernels, with every guest paused. Other processes of root are only named. A killed process loses nothing for the
next kernel: all processes end with this one, and preserved files belong to the session, of which luod has an fd.
"""

from __future__ import annotations

import os
import platform
import signal
from pathlib import Path

from luod.frozen import frozen
from luod.linux import Fd
from luod.static import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_IOCTL: Final = {"x86_64": 16, "aarch64": 29}
_LIVEUPDATE: Final = 0xBA


@frozen
class Stuck:
    """A process that blocks the kexec. `ended`: it was sent SIGKILL."""

    pid: int
    command: str
    ended: bool


def in_session_ioctl(pid: int, proc: Path = Path("/proc")) -> bool:
    """Returns whether a thread of the process is in an ioctl of /dev/liveupdate or a session now.

    False if it is gone.
    """
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
        # NUMBER ARGUMENT…; "running" and "-1 …" are not calls.
        if len(words) > 2 and words[0] == str(number) and int(words[2], 16) >> 8 & 0xFF == _LIVEUPDATE:
            return True
    return False


def end(participants: Mapping[int, Fd], proc: Path = Path("/proc")) -> Iterator[Stuck]:
    """Kills each stuck process of `participants`, pidfds by pid, or whose real uid is not 0.

    Yields all stuck processes.
    """
    for entry in os.listdir(proc):
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        pid = int(entry)
        try:
            # First, so that all later reads are of the process that is killed: if its pid is reused, this one is dead.
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
    """Sends a signal. Returns False if the process does not exist any more."""
    if pidfd is None:
        return False
    try:
        signal.pidfd_send_signal(pidfd.fileno(), number)
    except ProcessLookupError:
        return False
    return True


def _real_uid(pid: int, proc: Path) -> int:
    """Returns the real uid; 0 if it cannot be read, since the process is gone."""
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
