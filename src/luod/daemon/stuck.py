"""Who is inside an ioctl on a session: such a process holds reboot(2), which then cannot even be killed (H17).

The kernel says so in /proc/PID/task/TID/syscall. Called by `luod.daemon.update` when a jump takes too long; ends those
that take part in updates, and names the others. Whoever is ended loses nothing that the next kernel would have had: its
guest does not run, and what is preserved is the session's.
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


def end(may_end: Mapping[int, Fd], proc: Path = Path("/proc")) -> Iterator[Stuck]:
    """Ends each stuck process of `may_end`, pidfds by pid, and yields it, and those it may not end."""
    for entry in os.listdir(proc):
        if not entry.isdigit() or int(entry) == os.getpid() or not in_session_ioctl(int(entry), proc):
            continue
        pid = int(entry)
        ended = False
        if pid in may_end:
            try:
                signal.pidfd_send_signal(may_end[pid].fileno(), signal.SIGKILL)
                ended = True
            except ProcessLookupError:
                continue
        yield Stuck(pid, _command(pid, proc), ended)


def _command(pid: int, proc: Path) -> str:
    try:
        return (proc / str(pid) / "comm").read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return "?"
