"""The fds with which PID 1 starts luod: $LISTEN_FDS, $LISTEN_FDNAMES, $LISTEN_PID, from fd 3 on (sd_listen_fds(3)).

They are the sockets of luod's socket units, and what was in the fd store of its unit. Standard library only.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping

from luod.daemon.supervisor.open_files import FIRST
from luod.errors import Refused
from luod.frozen import frozen
from luod.linux import Fd
from luod.static import Final

SESSIONS: Final = "sessions"
ADMIN: Final = "admin"
"""FileDescriptorName= of luod's two socket units."""


@frozen
class Passed:
    """The listening sockets, None where there is no socket unit, and the stored fds by their names."""

    sessions: socket.socket | None
    admin: socket.socket | None
    stored: Mapping[str, Fd]


def passed() -> Passed:
    """Returns what PID 1 passed, now close-on-exec. A second call returns nothing: it clears the environment.

    Of several stored fds with one name the first is returned, and the others are closed. Raises Refused: a socket unit
    has another kind of socket.
    """
    pid, count, names = (os.environ.pop(name, "") for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"))
    os.environ.pop("LISTEN_PIDFDID", None)
    found: dict[str, Fd] = {}
    if pid == str(os.getpid()) and count.isdecimal():
        for number, name in zip(range(FIRST, FIRST + int(count)), names.split(":"), strict=False):
            os.set_inheritable(number, False)
            fd = Fd(number)
            if found.setdefault(name, fd) is not fd:
                fd.close()
    sockets = {name: _listening(name, found.pop(name)) for name in (SESSIONS, ADMIN) if name in found}
    return Passed(sockets.get(SESSIONS), sockets.get(ADMIN), found)


def _listening(name: str, fd: Fd) -> socket.socket:
    passed = socket.socket(fileno=fd.detach())
    listens = passed.family == socket.AF_UNIX and passed.type == socket.SOCK_STREAM
    if not listens or not passed.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        passed.close()
        raise Refused(
            f"the socket unit with FileDescriptorName={name} does not listen on a unix stream socket",
            hint="see luod.socket and luod-admin.socket of the package",
        )
    return passed
