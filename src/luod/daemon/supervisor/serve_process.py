"""The process of serve: a fork of the supervisor, which shares its modules, and so starts in milliseconds.

The child keeps what it is given. It closes every other fd of the supervisor, such as the lock of the state directory,
which must not outlive the supervisor. It never returns into the supervisor's code, and ends by _exit: the objects of
the supervisor in its memory, whose fds are closed, are never used or finalized. Standard library only.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import socket
import sys
from collections.abc import Callable
from itertools import pairwise

from luod.daemon.supervisor.open_files import FIRST
from luod.frozen import frozen
from luod.linux import Fd
from luod.static import Final, NoReturn

NAME: Final = "luod-serve"
"""The name of the process (comm in proc(5)). Its command line is the supervisor's."""
_MOST_FD: Final = 2**31 - 1
_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@frozen
class Given:
    """The property of serve from its start on: the channel, the listening sockets, and the stored fds."""

    channel: socket.socket
    sessions: socket.socket
    admin: socket.socket
    fds: dict[str, Fd]


def fork(run: Callable[[Given], int], given: Given) -> int:
    """Forks a process that ends with the result of `run`, and returns its pid. Raises OSError."""
    # The collector would write to every object, and so copy the memory that the two processes share. `luod.daemon.main`
    # disables it, since what is imported at the start is no garbage.
    gc.freeze()
    gc.enable()
    # A signal before the child has handlers of its own is kept for them.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        pid = os.fork()
        if pid == 0:
            _become(run, given)
        return pid
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _become(run: Callable[[Given], int], given: Given) -> NoReturn:
    status = 1
    try:
        signal.set_wakeup_fd(-1)
        for number in _SIGNALS:
            # SIGHUP is ignored until serve has a handler: it reads the policy after that anyway.
            signal.signal(number, signal.SIG_IGN if number == signal.SIGHUP else signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        os.environ.pop("NOTIFY_SOCKET", None)
        _close_others(given)
        with contextlib.suppress(OSError), open("/proc/self/comm", "w", encoding="ascii") as name:
            name.write(NAME)
        status = run(given)
    except BaseException:  # noqa: BLE001 - in the child, which must not go on as a second supervisor
        sys.excepthook(*sys.exc_info())
    finally:
        # Skips the interpreter's shutdown, which would close connections with unread data and could wait for them.
        # The kernel closes the files of a process without a wait.
        os._exit(status)


def _close_others(given: Given) -> None:
    sockets = (given.channel.fileno(), given.sessions.fileno(), given.admin.fileno())
    kept = sorted((FIRST - 1, *sockets, *(fd.fileno() for fd in given.fds.values()), _MOST_FD))
    for below, above in pairwise(kept):
        os.closerange(below + 1, above)
