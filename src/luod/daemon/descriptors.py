"""The fds a program is started with, by systemd's protocol: $LISTEN_FDS, $LISTEN_FDNAMES, $LISTEN_PID, from fd 3 on.

`luod keep` passes them to `luod serve`, and may one day get them from PID 1. Standard library only.
"""

from __future__ import annotations

import fcntl
import os
import resource
from collections.abc import Mapping, Sequence
from itertools import count
from typing import Final, NoReturn

from luod.linux import Fd

FIRST: Final = 3
_NAMES: Final = 1000
"""How many of our names one variable surely holds, of which the kernel takes 128 KiB. The rest are in variables of our
own, LISTEN_FDNAMES_1 and so on."""


def inherited() -> dict[str, Fd]:
    """The fds this process was started with, by name, close-on-exec now; none when they are meant for another.

    Takes them: the environment is cleared, so a second call gives none.
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
    """Becomes the program `arguments`, with `fds` by name. For a child just forked: fds from 3 on are overwritten.

    Raises OSError when it cannot.
    """
    beyond = FIRST + len(fds)
    copies = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, beyond) for fd in fds.values()]
    for number, copy in enumerate(copies, FIRST):
        os.dup2(copy, number, inheritable=True)
    passed = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(len(fds))}
    names = list(fds)
    for number, begin in enumerate(range(0, max(len(names), 1), _NAMES)):
        passed["LISTEN_FDNAMES" if number == 0 else f"LISTEN_FDNAMES_{number}"] = ":".join(
            names[begin : begin + _NAMES]
        )
    os.execve(arguments[0], list(arguments), {**environment, **passed})


def raise_limit() -> None:
    """Lets this process have as many fds as root allows: a session is one in each of our processes."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
