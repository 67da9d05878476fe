"""The part of a process that works on one session for serve: what it is given, and how it begins and refuses.

It waits at its gate (`luod.daemon.processes.gate`). What it writes to standard output is its report.
"""

from __future__ import annotations

from typing import Final

from luod.daemon.processes import gate
from luod.errors import LuodError

REFUSED_STATUS: Final = 64
"""Of a process that has changed nothing, and says why in its report."""
SESSION_FD: Final = "LUOD_SESSION_FD"
SESSION_NAME: Final = "LUOD_SESSION"


def refuse(error: LuodError) -> int:
    """Writes why the process does not begin, and returns the status to end with."""
    print(f"{error} ({error.hint})" if error.hint else error)
    return REFUSED_STATUS


def admitted() -> bool:
    """Waits until the work may begin. Returns False if it may not, since the serve that asked for it is gone."""
    go = gate.wait()
    # What is retrieved is charged to luod's cgroup: when that is too much, this process is to go and not luod.
    try:
        with open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
            file.write("1000")
    except OSError:
        return go
    return go
