"""A process that works on one session for serve: its arguments, its start, and its refusals.

It waits at its gate (`luod.daemon.processes.gate`). Its standard output is its report.
"""

from __future__ import annotations

from luod.daemon.processes import gate
from luod.errors import LuodError
from luod.static import Final

REFUSED_STATUS: Final = 64
"""The exit status of a process that has changed nothing. Its report has the reason."""
SESSION_FD: Final = "LUOD_SESSION_FD"
SESSION_NAME: Final = "LUOD_SESSION"


def refuse(error: LuodError) -> int:
    """Writes why the process does not begin, and returns its exit status."""
    print(f"{error} ({error.hint})" if error.hint else error)
    return REFUSED_STATUS


def admitted() -> bool:
    """Waits until the work may begin. Returns False if it may not, since the serve that started it is gone."""
    go = gate.wait()
    # Retrieved memory is charged to luod's cgroup: if that is too much, this process must be killed and not luod.
    try:
        with open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
            file.write("1000")
    except OSError:
        return go
    return go
