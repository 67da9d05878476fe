"""Writes a file that an operator names, such as that of `luoctl metrics --output`.

A regular file is replaced as a whole, so that no reader sees a part of it. Everything else that a path can name is
written to: devices, named pipes, and fds by /dev/stdout or /dev/fd/N.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from pathlib import Path
from typing import Final

_FD: Final = re.compile(r"/proc/(?P<pid>\d+)(?:/task/\d+)?/fd/(?P<number>\d+)")
_MOST_LINKS: Final = 40
"""As many as the kernel follows."""


def write(path: str, data: bytes) -> None:
    """Writes `data` to `path`. OSError, with `path` as its file name.

    A new file, or a replaced one, is for everybody to read. Symbolic links are followed: the file that they lead to is
    replaced, in its own directory.
    """
    try:
        if not path:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        place = _resolved(path)
        own = _own_fd(place)
        if own is not None:
            _write_all(os.dup(own), data)
        elif _FD.fullmatch(place) or _is_special(path):
            _write_all(_open_special(path), data)
        elif path.endswith("/"):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        else:
            _replace(Path(place), data)
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), path) from error


def _resolved(path: str) -> str:
    """Returns the path without symbolic links, but for the links of /proc/PID/fd: those are not paths."""
    for _ in range(_MOST_LINKS):
        parent, name = os.path.split(os.path.abspath(path))
        path = os.path.join(os.path.realpath(parent), name)
        if _FD.fullmatch(path) or not os.path.islink(path):
            return path
        path = os.path.join(os.path.dirname(path), os.readlink(path))
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))


def _own_fd(place: str) -> int | None:
    """Returns the number, if the path is that of an fd of this process."""
    found = _FD.fullmatch(place)
    return int(found["number"]) if found and int(found["pid"]) == os.getpid() else None


def _is_special(path: str) -> bool:
    """Whether something is there that cannot be replaced, since it is no regular file."""
    try:
        return not stat.S_ISREG(os.stat(path).st_mode)
    except FileNotFoundError:
        return False


def _open_special(path: str) -> int:
    # O_NONBLOCK: a named pipe without a reader is an error, and not a wait without end.
    try:
        fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.ENXIO and stat.S_ISFIFO(os.stat(path).st_mode):
            raise OSError(error.errno, "no process reads from this pipe") from None
        raise
    os.set_blocking(fd, True)
    return fd


def _write_all(fd: int, data: bytes) -> None:
    with open(fd, "wb", buffering=0) as file:
        rest = memoryview(data)
        while rest:
            rest = rest[file.write(rest) :]


def _replace(target: Path, data: bytes) -> None:
    # Hidden and with another ending, so that nobody who reads a directory of such files takes it for one.
    new = target.with_name(f".{target.name}.{os.getpid()}.new")
    try:
        with open(new, "xb") as file:
            file.write(data)
            os.fchmod(file.fileno(), 0o644)
        new.replace(target)
    except OSError:
        new.unlink(missing_ok=True)
        raise
