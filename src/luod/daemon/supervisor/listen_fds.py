"""The fds with which a program starts, by systemd's protocol: $LISTEN_FDS, $LISTEN_FDNAMES, $LISTEN_PID, from fd 3 on.

`luod` passes them to `luod serve`, and may later get them from PID 1. Standard library only.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import resource
import sys
from collections.abc import Mapping, Sequence
from itertools import count

from luod.linux import Fd

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final, NoReturn

FIRST: Final = 3
LEAST: Final = 64
"""The minimum number of fds for luod, to hold a few sessions and answer a few clients."""
_ENOUGH: Final = 1024
_NAMES: Final = 1000
"""The number of names that fit one variable, for which the kernel allows 128 KiB. The others are in luod's own
variables LISTEN_FDNAMES_1 and so on.
"""


def inherited() -> dict[str, Fd]:
    """Returns the fds with which this process was started, by name, now close-on-exec; empty if they are for another.

    It clears the environment, so a second call returns an empty result.
    """
    environment = {name: os.environ.pop(name, "") for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")}
    if environment["LISTEN_PID"] != str(os.getpid()):
        return {}
    names = environment["LISTEN_FDNAMES"].split(":")
    fds = {}
    for further in count(1):
        if not (more := os.environ.pop(f"LISTEN_FDNAMES_{further}", "")):
            break
        names += more.split(":")
    for number, name in zip(range(FIRST, FIRST + int(environment["LISTEN_FDS"])), names, strict=True):
        os.set_inheritable(number, False)
        fds[name] = Fd(number)
    return fds


def execute(arguments: Sequence[str], fds: Mapping[str, int], environment: Mapping[str, str]) -> NoReturn:
    """Becomes the program `arguments`, with `fds` by name. For a forked child: fds from 3 on are overwritten.

    Raises OSError when it cannot.
    """
    _place(list(fds.values()))
    passed = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(len(fds))}
    names = list(fds)
    for number, begin in enumerate(range(0, max(len(names), 1), _NAMES)):
        passed["LISTEN_FDNAMES" if number == 0 else f"LISTEN_FDNAMES_{number}"] = ":".join(
            names[begin : begin + _NAMES]
        )
    os.execve(arguments[0], list(arguments), {**environment, **passed})


def _place(sources: Sequence[int]) -> None:
    """Moves the fds to the numbers from FIRST on, in their order, inheritable. Raises OSError.

    It uses one number more than there are fds, so that a process at its limit can still be started again.
    """
    waiting = dict(enumerate(sources, FIRST))
    """The fds that still have to be moved, by the number they go to."""
    needed = {source: target for target, source in waiting.items()}

    def move(target: int) -> None:
        """Moves an fd to a free number, and then the fds for which that makes room."""
        while target in waiting:
            source = waiting.pop(target)
            del needed[source]
            os.dup2(source, target, inheritable=True)
            os.close(source)
            target = source

    for target in [target for target in waiting if target not in needed]:
        move(target)
    for target in list(waiting):
        # Only cycles are left.
        if target in waiting and waiting[target] != target:
            copy, goal = fcntl.fcntl(target, fcntl.F_DUPFD_CLOEXEC, FIRST), needed.pop(target)
            waiting[goal], needed[copy] = copy, goal
            move(target)
        elif waiting.pop(target, None) is not None:
            os.set_inheritable(target, True)


def open_standard() -> None:
    """Opens /dev/null as each missing one of stdin, stdout and stderr.

    Otherwise the next opened file would get its number, and the log would be written to it.
    """
    for number in range(FIRST):
        try:
            os.fstat(number)
        except OSError:
            try:
                os.open(os.devnull, os.O_RDWR)
            except OSError:
                os.open("/", os.O_RDONLY)


def raise_limit() -> int:
    """Raises the limit of fds to the maximum for root: a session takes one in each process. Returns the limit.

    If that is too low for a hundred sessions, it raises the hard limit too, if this process may.
    """
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= hard < _ENOUGH:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (_ENOUGH, _ENOUGH))
    with contextlib.suppress(OSError, ValueError):
        _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    soft, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return soft if soft >= 0 else sys.maxsize
