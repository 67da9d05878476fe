"""Checks whether users other than root and luod's own could change a file or directory on which luod relies.

A user that can write to a directory can replace the files in it, so every parent directory counts, and those of
symbolic links on the way.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator

from luod.frozen import frozen
from luod.static import Final

_MOST_LINKS: Final = 40
"""The kernel's limit."""
_OVERFLOW: Final = "/proc/sys/kernel/overflowuid"
_UID_MAP: Final = "/proc/self/uid_map"


@frozen
class Fault:
    """The problem of `path`, and the command that repairs it."""

    path: str
    what: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.path} {self.what}"


def fault(path: str | os.PathLike[str], *, sticky: bool = False) -> Fault | None:
    """Returns the first path that others could change: `path` itself, or a parent. None also if `path` does not exist.

    In a directory with the sticky bit, such as /tmp, users cannot replace files of others. `sticky` allows `path`
    itself to be one. Raises OSError: it cannot be read.
    """
    trusted = {0, os.geteuid()} | _unknown_owner()
    above_is_sticky = False
    for place, found, last in _way(os.path.abspath(path)):
        link = stat.S_ISLNK(found.st_mode)
        if found.st_uid not in trusted and (not link or above_is_sticky):
            return Fault(place, f"is owned by uid {found.st_uid}", f"chown {'-h ' if link else ''}root {place}")
        if link:
            continue
        above_is_sticky = bool(found.st_mode & stat.S_ISVTX)
        others = found.st_mode & 0o022
        if others and not (above_is_sticky and stat.S_ISDIR(found.st_mode) and (sticky or not last)):
            whom = "every user" if others & 0o002 else f"its group (gid {found.st_gid})"
            return Fault(place, f"can be written by {whom}", f"chmod go-w {place}")
    return None


def _way(path: str) -> Iterator[tuple[str, os.stat_result, bool]]:
    """Yields the steps of the kernel on its way to `path`: each with its status, and whether it is the end."""
    for _ in range(_MOST_LINKS):
        parts = ["/", *filter(None, path.split("/"))]
        for number in range(1, len(parts) + 1):
            place = os.path.join(*parts[:number])
            try:
                found = os.lstat(place)
            except FileNotFoundError:
                return
            yield place, found, number == len(parts)
            if stat.S_ISLNK(found.st_mode):
                target = os.path.join(os.path.dirname(place), os.readlink(place))
                path = os.path.normpath(os.path.join(target, *parts[number:]))
                break
        else:
            return


def _unknown_owner() -> set[int]:
    """Returns the uid that stands for the users that a user namespace does not map, such as the host's root."""
    try:
        first, outside, count = _read(_UID_MAP).split()[:3]
        if (first, outside) == ("0", "0") and int(count) == 2**32 - 1:
            return set()
        return {int(_read(_OVERFLOW))}
    except (OSError, ValueError):
        return set()


def _read(path: str) -> str:
    with open(path, encoding="ascii") as file:
        return file.read()
