"""The resources of which a machine has one for each luod: two listening sockets, and the lock in the state directory.

`luod` holds them, so that a client's connect waits, and does not fail, while serve is restarted. Standard
library only.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import stat
import time
from contextlib import ExitStack
from types import TracebackType

from luod.daemon import trust
from luod.daemon.log import Log
from luod.daemon.supervisor.other_luod import wait_for_orphan
from luod.errors import Refused
from luod.linux import Fd
from luod.static import Final, Self

_BACKLOG: Final = 128
_LOCK_SECONDS: Final = 1.0
_ORPHAN_SECONDS: Final = 5.0
"""The maximum wait for the serve of a dead supervisor in seconds."""
_PAUSE_SECONDS: Final = 0.05


class Listening:
    """Takes the locks and the sockets, until the end of `with`. Raises Refused: another luod has them, or they cannot
    be made.

    The sessions' socket is open to all users, the admin's to root. Sockets of a killed luod are replaced: a file beside
    them records the sockets that the last holder of the lock made. It is not in the state directory, since guests wait
    for this process, and must not wait for a write to a disk (docs/hazards.md, H30). A process of that luod that still
    listens is awaited, since it usually ends by itself; then its place is taken. Sockets that PID 1 passed are PID 1's:
    they are used as they are, and stay.
    """

    def __init__(
        self,
        sessions_socket: str,
        admin_socket: str,
        state_directory: str,
        log: Log | None = None,
        *,
        sessions: socket.socket | None = None,
        admin: socket.socket | None = None,
    ) -> None:
        """`sessions` and `admin` are sockets from PID 1, owned from now on."""
        self._open = ExitStack()
        self._paths: list[str] = []
        """The files that luod made here."""
        self.orphan = False
        """Whether a process of a luod that was killed still listened at the deadline."""
        deadline = time.monotonic() + _ORPHAN_SECONDS
        try:
            self._open.enter_context(_lock_directory(state_directory))
            record, lock = sessions_socket + ".record", _inode(state_directory)
            left = _recorded(record, lock)

            def listen(path: str, mode: int) -> socket.socket:
                _spare_others(path)
                _make_place(path)
                ours = os.path.lexists(path) and _identity(path) in left
                self.orphan |= not _wait(path, deadline, log, ours=ours)
                listening = _listen(path, mode)
                self._open.callback(_remove, path)
                self._paths.append(path)
                return listening

            self.sessions: Final = self._open.enter_context(sessions or listen(sessions_socket, 0o666))
            self.admin: Final = self._open.enter_context(admin or listen(admin_socket, 0o600))
            if self._paths:
                # A failure, such as ENOSPC, makes the next luod check the listener.
                with contextlib.suppress(OSError):
                    _write_record(record, [lock, *map(_identity, self._paths)])
                self._open.callback(_remove, record)
                self._paths.append(record)
        except BaseException:
            self._open.close()
            raise

    def withdraw(self) -> None:
        """Removes the sockets and their record from the file system, and leaves the sockets open."""
        for path in self._paths:
            _remove(path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()


def _lock_directory(state_directory: str) -> ExitStack:
    """Locks the directory, and the file `lock` in it, which an older luod locked alone.

    On a read-only file system the directory suffices.
    """
    if not state_directory:
        raise Refused("an empty --state-directory", hint="name a directory")
    with ExitStack() as locks:
        try:
            _make(state_directory, 0o700)
            # In a directory such as a new tmpfs no user replaces luod's files. Updates are refused meanwhile.
            _require_ours(state_directory, "state directory", sticky=True)
            opened = [os.open(state_directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)]
            locks.enter_context(Fd(opened[0]))
            with contextlib.suppress(OSError):
                file = os.path.join(state_directory, "lock")
                opened.append(os.open(file, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
                locks.enter_context(Fd(opened[1]))
            for fd in opened:
                _lock(fd)
        except BlockingIOError:
            raise Refused(
                f"another luod runs: it keeps its state in {state_directory}",
                hint="stop it, or use another --state-directory",
            ) from None
        except OSError as error:
            raise _refused("state directory", state_directory, error) from error
        return locks.pop_all()


def _spare_others(path: str) -> None:
    """Raises Refused when something other than a socket is in its place."""
    for taken in (path, path + ".new"):
        try:
            foreign = not stat.S_ISSOCK(os.lstat(taken).st_mode)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise _refused("socket", path, error) from error
        if foreign:
            raise Refused(f"{taken} exists and is not a socket", hint="use another socket path, or move the file away")


def _lock(fd: int) -> None:
    """Takes the lock within a second: a killed luod releases it in a moment. Raises BlockingIOError, OSError."""
    deadline = time.monotonic() + _LOCK_SECONDS
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise
            time.sleep(_PAUSE_SECONDS)
        else:
            return


def _make_place(path: str) -> None:
    """Makes the directory of a socket. Raises Refused: it cannot be made, or others can change its contents."""
    try:
        _make(_parent(path), 0o755)
        # In a directory such as /tmp no user replaces luod's socket.
        _require_ours(_parent(path), "socket's directory", sticky=True)
    except OSError as error:
        raise _refused("socket", path, error) from error


def _wait(path: str, deadline: float, log: Log | None, *, ours: bool) -> bool:
    """Waits as `wait_for_orphan`, with Refused for its OSError."""
    try:
        return wait_for_orphan(path, deadline, log, ours=ours)
    except OSError as error:
        raise _refused("socket", path, error) from error


def _listen(path: str, mode: int) -> socket.socket:
    """Returns a listening socket at `path`. It is made under another name, and moved once it listens with its mode."""
    try:
        new = path + ".new"
        _remove(new)
        with ExitStack() as undo:
            listening = undo.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            listening.bind(new)
            undo.callback(_remove, new)
            os.chmod(new, mode)
            listening.listen(_BACKLOG)
            os.rename(new, path)
            undo.pop_all()
        return listening
    except OSError as error:
        raise _refused("socket", path, error) from error


def _parent(path: str) -> str:
    return os.path.dirname(path.rstrip("/")) or "."


def _make(directory: str, mode: int) -> None:
    """Makes the directory, with this mode under any umask, and its parents."""
    if os.path.isdir(directory):
        return
    if not os.path.exists(_parent(directory)):
        _make(_parent(directory), 0o755)
    with contextlib.suppress(FileExistsError):
        os.mkdir(directory)
    os.chmod(directory, mode)


def _require_ours(directory: str, what: str, *, sticky: bool = False) -> None:
    """Raises Refused when users other than root can change the directory's contents."""
    fault = trust.fault(directory, sticky=sticky)
    if fault is not None:
        where = "it" if fault.path == os.path.abspath(directory) else fault.path
        raise Refused(f"{what} {directory!r}: {where} {fault.what}", hint=fault.remedy)


def _inode(path: str) -> str:
    """Returns the identity of a directory among all that there are. Raises Refused."""
    try:
        found = os.stat(path)
    except OSError as error:
        raise _refused("state directory", path, error) from error
    return f"{found.st_dev} {found.st_ino}"


def _recorded(path: str, lock: str) -> list[str]:
    """Returns the identities in the record at `path`, if it is of a luod that had the lock of the directory `lock`."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        with open(path, encoding="ascii", errors="replace", opener=lambda name, _: os.open(name, flags)) as file:
            if os.fstat(file.fileno()).st_uid != os.geteuid():
                return []
            holder, *sockets = file.read().splitlines()
    except (OSError, ValueError):
        return []
    return sockets if holder == lock else []


def _write_record(path: str, lines: list[str]) -> None:
    """Makes the record, as a new file: in a directory with the sticky bit another user may have made one. Raises
    OSError.
    """
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    with open(path, "x", encoding="ascii", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        file.write("\n".join(lines))


def _identity(path: str) -> str:
    """Returns the identity of a socket among all that were ever at this path. The time is that of its move there."""
    found = os.lstat(path)
    return f"{found.st_dev} {found.st_ino} {found.st_ctime_ns}"


def _remove(path: str) -> None:
    """Removes a file that luod made. A failure does not prevent the end: the next luod replaces it."""
    with contextlib.suppress(OSError):
        os.unlink(path)


def _refused(what: str, path: str, error: OSError) -> Refused:
    hint = "luod runs as root" if isinstance(error, PermissionError) else "name another"
    return Refused(f"{what} {path!r}: {error.strerror or error}", hint=hint)
