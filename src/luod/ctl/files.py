"""Writes an output file that the operator names, such as that of `luoctl metrics --output`.

A regular file is replaced atomically, so that a reader never sees a part of it. Devices, named pipes, /dev/stdout and
/dev/fd/N are opened and written to.
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
"""The kernel's limit of symbolic links in one path."""


def write(path: str, data: bytes) -> None:
    """Writes `data` to `path`. Raises OSError with `path` as its file name.

    A new or replaced file has mode 0644. Symbolic links are followed: their target is replaced, in its own directory.
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
    """Resolves symbolic links, except those of /proc/PID/fd, which are not paths."""
    for _ in range(_MOST_LINKS):
        parent, name = os.path.split(os.path.abspath(path))
        path = os.path.join(os.path.realpath(parent), name)
        if _FD.fullmatch(path) or not os.path.islink(path):
            return path
        path = os.path.join(os.path.dirname(path), os.readlink(path))
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))


def _own_fd(place: str) -> int | None:
    """Returns the number of the fd if the path names an fd of this process."""
    found = _FD.fullmatch(place)
    return int(found["number"]) if found and int(found["pid"]) == os.getpid() else None


def _is_special(path: str) -> bool:
    """Returns whether the path exists and is not a regular file, so that it cannot be replaced."""
    try:
        return not stat.S_ISREG(os.stat(path).st_mode)
    except FileNotFoundError:
        return False


def _open_special(path: str) -> int:
    # O_NONBLOCK: the open of a named pipe without a reader fails, instead of waiting for one.
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
    # A hidden name with its own suffix: programs that read the files of this directory ignore it.
    new = target.with_name(f".{target.name}.{os.getpid()}.new")
    try:
        with open(new, "xb") as file:
            file.write(data)
            os.fchmod(file.fileno(), 0o644)
        new.replace(target)
    except OSError:
        new.unlink(missing_ok=True)
        raise
