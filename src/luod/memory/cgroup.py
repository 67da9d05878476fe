"""Finds a process's memory cgroups: from its /proc/PID/cgroup to directories of a mounted cgroup file system.

A host can have cgroup v1 and v2 mounted at a time, each several times, in part, and through a cgroup namespace. The
memory controller is in one hierarchy only, so one file system type has the limits. Of its mounts, the one is used that
shows the process's own cgroup and the most of its ancestors.
"""

from __future__ import annotations

import errno
import os

from luod.frozen import frozen
from luod.static import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

V1: Final = "cgroup"
V2: Final = "cgroup2"
_CONTROLLER: Final = "memory"
_INITIAL_NAMESPACE: Final = "cgroup:[4026531835]"
"""The inode number is PROC_CGROUP_INIT_INO of the kernel's include/linux/proc_ns.h."""
_MOST_REMEMBERED: Final = 256


@frozen
class _Mount:
    """A mounted hierarchy: `part` of it is at `point`. `device` is its st_dev."""

    part: str
    point: str
    device: int


_remembered: dict[tuple[str, int, str, str], tuple[tuple[str, ...], int]] = {}
"""Directories and their st_dev by root, mount namespace, type and cgroup. mountinfo has a line for each mount."""


def membership_of(text: str) -> tuple[str, str] | None:
    """Returns the type of the hierarchy with the memory controller, and the cgroup in it, from a /proc/PID/cgroup.

    Returns None when the process is in no hierarchy that could have it. Raises ValueError for a text that no kernel
    writes.
    """
    unified = None
    for line in text.splitlines():
        hierarchy, controllers, path = line.split(":", 2)
        if not path.startswith("/"):
            raise ValueError(f"{path!r:.100} is not the path of a cgroup")
        if _CONTROLLER in controllers.split(","):
            return V1, path
        if hierarchy == "0" and not controllers:
            unified = V2, path
    return unified


def directories(under: str, text: str, read: Callable[[str], str]) -> tuple[str, ...]:
    """Returns the directories of the cgroups in `text`, innermost first, as paths below `under`.

    `read` returns a file's text. The result is empty where there is nothing to limit: no memory controller in this
    kernel, or the root cgroup. Raises OSError: no mount that this process can see shows the cgroup. Raises the
    ValueError of `membership_of`.
    """
    member = membership_of(text)
    if member is None:
        return ()
    kind, path = member
    try:
        namespace = os.stat(f"{under}/proc/self/ns/mnt").st_ino
    except OSError:
        namespace = 0
    known = _remembered.get((under, namespace, kind, path))
    if known is not None and namespace and _device(under + known[0][0]) == known[1]:
        return known[0]
    found = _find(under, kind, path, read)
    if found is None:
        if _no_limits(under, path, read):
            return ()
        raise OSError(errno.ENOENT, f"no {kind} file system that shows this cgroup is mounted here", path)
    levels, device = found
    if namespace:
        if len(_remembered) >= _MOST_REMEMBERED:
            _remembered.clear()
        _remembered[under, namespace, kind, path] = levels, device
    return levels


def _find(under: str, kind: str, path: str, read: Callable[[str], str]) -> tuple[tuple[str, ...], int] | None:
    best: tuple[tuple[str, ...], int] | None = None
    for mount in _mounts(kind, read("/proc/self/mountinfo")):
        names = _inside(path, mount.part)
        if names is None:
            continue
        point = mount.point.rstrip("/")
        levels = tuple("/".join((point, *names[:count])) or "/" for count in range(len(names), -1, -1))
        # Another mount can lie on top of it.
        if _device(under + levels[0]) == mount.device and (best is None or len(levels) > len(best[0])):
            best = levels, mount.device
    return best


def _inside(path: str, part: str) -> list[str] | None:
    """Returns the names from `part` of a hierarchy down to `path`; None if it is not inside."""
    part = part.rstrip("/")
    if not (path.rstrip("/") + "/").startswith(part + "/"):
        return None
    names = [name for name in path[len(part) :].split("/") if name]
    # Outside of this process's cgroup namespace, where names are not known.
    return None if ".." in names else names


def _mounts(kind: str, mountinfo: str) -> Iterator[_Mount]:
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        fields, of = before.split(" "), after.split(" ")
        if len(fields) < 5 or len(of) < 3 or of[0] != kind:
            continue
        if kind == V1 and _CONTROLLER not in of[2].split(","):
            continue
        major, _, minor = fields[2].partition(":")
        yield _Mount(_unescape(fields[3]), _unescape(fields[4]), os.makedev(int(major), int(minor)))


def _device(path: str) -> int | None:
    try:
        return os.stat(path).st_dev
    except OSError:
        return None


def _no_limits(under: str, path: str, read: Callable[[str], str]) -> bool:
    """Returns whether no limit can exist, although no cgroup file system is mounted here."""
    try:
        if path == "/" and os.readlink(f"{under}/proc/self/ns/cgroup") == _INITIAL_NAMESPACE:
            return True
        controllers = [line.split() for line in read("/proc/cgroups").splitlines() if not line.startswith("#")]
    except OSError:
        return False
    memory = [fields for fields in controllers if len(fields) == 4 and fields[0] == _CONTROLLER]
    # A table without any line is masked by a mount.
    return bool(controllers) and (not memory or memory[0][3] == "0" or memory[0][2] == "1")


def _unescape(path: str) -> str:
    """Returns a path without mountinfo's escapes: blanks and backslashes are three octal digits there."""
    head, *rest = path.split("\\")
    return head + "".join(chr(int(piece[:3], 8)) + piece[3:] for piece in rest)
