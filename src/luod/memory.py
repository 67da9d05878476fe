"""How much memory this process can still take, and what says so. Reads /proc and /sys/fs/cgroup; changes nothing.

A RETRIEVE_FD that runs out of memory frees the file for good (hazard H1), and a PRESERVE_FD that does gets its caller
killed (H2), so `luod.liveupdate` asks here first. What is retrieved exists already and is only charged: to the cgroups
above the process and, under strict overcommit, to the machine. What is new must also be free.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from luod.errors import NotEnoughMemory

_STRICT_OVERCOMMIT: Final = 2
_CHUNK: Final = 64 * 1024
_UNLIMITED_V1: Final = 2**60
"""cgroup v1 says "no limit" with the largest multiple of a page; anything from here on is that."""


@dataclass(frozen=True)
class Room:
    """What one limit leaves: `available` bytes (0 or more); `limit` says which, in words or as a cgroup's path."""

    available: int
    limit: str


def chargeable(root: Path = Path("/"), process: int | None = None, *, enough: int | None = None) -> Room | None:
    """The tightest limit on memory that exists and would be charged to this process; None when nothing limits it.

    Limits: `memory.max` (v1: `memory.limit_in_bytes`) of each cgroup from this process's up to the root, and
    CommitLimit under `vm.overcommit_memory=2`. Clean inactive page cache counts as available, since the kernel drops it
    before it fails a charge. Limits of cgroups outside this process's cgroup namespace cannot be seen. `root` is where
    /proc and /sys are found; `process` is the pid of another process to ask about, as far as this one can see.
    `enough` bytes are all that is asked for: where they are left, page cache is not looked for, which is dear.
    """
    return min(_limits(_under(root), process, enough), key=lambda room: room.available, default=None)


def free(root: Path = Path("/"), process: int | None = None, *, enough: int | None = None) -> Room | None:
    """As `chargeable`, and no more than MemAvailable: for memory that has yet to be allocated."""
    under = _under(root)
    rooms = list(_limits(under, process, enough))
    meminfo = _numbers(f"{under}/proc/meminfo")
    if "MemAvailable" in meminfo:
        rooms.append(Room(meminfo["MemAvailable"] * 1024, "the machine's free memory (MemAvailable)"))
    return min(rooms, key=lambda room: room.available, default=None)


def ceilings(root: Path = Path("/"), process: int | None = None) -> Iterator[Room]:
    """The limits of `chargeable`, each as a whole: what it would leave if nothing were used yet."""
    under = _under(root)
    for cgroup in _cgroups(under, process):
        limit, _v1 = _limit(under + cgroup)
        if limit is not None:
            yield Room(limit, f"the memory limit of cgroup {cgroup}")
    if _number(f"{under}/proc/sys/vm/overcommit_memory") == _STRICT_OVERCOMMIT:
        limit = _numbers(f"{under}/proc/meminfo").get("CommitLimit")
        if limit is not None:
            yield Room(limit * 1024, "strict overcommit (CommitLimit)")


def require(needed: int, room: Room | None, purpose: str, *, hint: str = "") -> None:
    """NotEnoughMemory when `room` leaves less than `needed` bytes, rounded up to pages.

    `purpose` begins the message; `hint` is for when it is not a RETRIEVE_FD, whose hint the error has by itself.
    """
    page = os.sysconf("SC_PAGE_SIZE")
    needed = -(-needed // page) * page
    if room is not None and needed > room.available:
        raise NotEnoughMemory(
            f"{purpose} takes {needed} bytes and {room.limit} leaves {room.available}",
            needed=needed,
            available=room.available,
            limit=room.limit,
            hint=hint,
        )


def _under(root: Path) -> str:
    """What goes before an absolute path. These files are read before every single PRESERVE_FD and RETRIEVE_FD, so there
    is no more between us and the kernel than there has to be.
    """
    return os.fspath(root).rstrip("/")


def _limits(under: str, process: int | None, enough: int | None) -> Iterator[Room]:
    for cgroup in _cgroups(under, process):
        room = _cgroup_room(under, cgroup, enough)
        if room is not None:
            yield room
    room = _commit_room(under)
    if room is not None:
        yield room


def _cgroups(under: str, process: int | None) -> Iterator[str]:
    """The directories of a process's memory cgroups, innermost first, as far up as they are mounted here."""
    for line in _lines(f"{under}/proc/{process or 'self'}/cgroup"):
        hierarchy, controllers, path = line.split(":", 2)
        unified = hierarchy == "0" and not controllers
        if not unified and "memory" not in controllers.split(","):
            continue
        mount = _mount(under, unified)
        if mount is None:
            continue
        # A path outside what is mounted here (another cgroup namespace's) leaves only the mount's own top to look at.
        part = mount.part.rstrip("/")
        inside = path[len(part) :] if (path + "/").startswith(part + "/") else ""
        parts = [name for name in inside.split("/") if name]
        if ".." in parts:
            parts = []
        for count in range(len(parts), -1, -1):
            yield "/".join((mount.point.rstrip("/"), *parts[:count]))


@dataclass(frozen=True)
class _Mount:
    """Where a hierarchy is mounted, and what `part` of it."""

    part: str
    point: str


_mounts: dict[tuple[str, bool, int, int], _Mount] = {}
"""Those that were found, by root, kind, mount namespace, and the device at the mount point: so long they are there."""


def _mount(under: str, unified: bool) -> _Mount | None:
    """Of the unified or of the memory hierarchy, from mountinfo, which is as long as the host has mounts."""
    try:
        namespace = os.stat(f"{under}/proc/self/ns/mnt").st_ino
        for (*known, device), mount in _mounts.items():
            if known == [under, unified, namespace] and os.stat(under + mount.point).st_dev == device:
                return mount
    except OSError:
        namespace = 0
    found = _find_mount(under, unified)
    if found is not None and namespace:
        with contextlib.suppress(OSError):
            _mounts[under, unified, namespace, os.stat(under + found.point).st_dev] = found
    return found


def _find_mount(under: str, unified: bool) -> _Mount | None:
    for line in _lines(f"{under}/proc/self/mountinfo"):
        before, _, after = line.partition(" - ")
        fields, kind = before.split(" "), after.split(" ")
        if len(fields) < 5 or len(kind) < 3:
            continue
        if kind[0] == ("cgroup2" if unified else "cgroup") and (unified or "memory" in kind[2].split(",")):
            return _Mount(_unescape(fields[3]), _unescape(fields[4]))
    return None


def _unescape(path: str) -> str:
    """mountinfo writes blanks and backslashes of a path as three octal digits."""
    head, *rest = path.split("\\")
    return head + "".join(chr(int(piece[:3], 8)) + piece[3:] for piece in rest)


def _limit(directory: str) -> tuple[int | None, bool]:
    """A cgroup's own, and whether it is one of cgroup v1."""
    limit, v1 = _number(f"{directory}/memory.max"), False
    if limit is None:
        limit, v1 = _number(f"{directory}/memory.limit_in_bytes"), True
    return (None if limit is None or limit >= _UNLIMITED_V1 else limit), v1


def _cgroup_room(under: str, cgroup: str, enough: int | None) -> Room | None:
    directory = under + cgroup
    limit, v1 = _limit(directory)
    used, prefix = ("memory.usage_in_bytes", "total_") if v1 else ("memory.current", "")
    if limit is None or (current := _number(f"{directory}/{used}")) is None:
        return None
    left = limit - current
    if enough is None or left < enough:
        stat = _numbers(f"{directory}/memory.stat")
        unclean = sum(stat.get(prefix + key, 0) for key in ("file_dirty", "dirty", "file_writeback", "writeback"))
        left += max(0, stat.get(f"{prefix}inactive_file", 0) - unclean)
    return Room(max(0, left), f"the memory limit of cgroup {cgroup}")


def _commit_room(under: str) -> Room | None:
    """What strict overcommit leaves, as the kernel's __vm_enough_memory() counts it for a process without privilege."""
    if _number(f"{under}/proc/sys/vm/overcommit_memory") != _STRICT_OVERCOMMIT:
        return None
    meminfo = _numbers(f"{under}/proc/meminfo")
    if "CommitLimit" not in meminfo or "Committed_AS" not in meminfo:
        return None
    reserved = (_number(f"{under}/proc/sys/vm/admin_reserve_kbytes") or 0) * 1024
    statm = _lines(f"{under}/proc/self/statm")
    own = int(statm[0].split()[0]) * os.sysconf("SC_PAGE_SIZE") if statm else 0
    reserved += min(own // 32, (_number(f"{under}/proc/sys/vm/user_reserve_kbytes") or 0) * 1024)
    left = (meminfo["CommitLimit"] - meminfo["Committed_AS"]) * 1024 - reserved
    return Room(max(0, left), "strict overcommit (CommitLimit)")


def _number(path: str) -> int | None:
    """The number in a file; None when the file is missing or says something else, such as `max`."""
    lines = _lines(path)
    return int(lines[0]) if lines and lines[0].strip().isdigit() else None


def _numbers(path: str) -> dict[str, int]:
    """The numbers of a file of lines `name value` or `name: value kB`."""
    found = {}
    for line in _lines(path):
        fields = line.replace(":", " ").split()
        if len(fields) >= 2 and fields[1].isdigit():
            found[fields[0]] = int(fields[1])
    return found


def _lines(path: str) -> list[str]:
    """A file's lines; none when it is not there or not for us: then it limits nothing that we can see."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return []
    try:
        content = b"".join(iter(lambda: os.read(file, _CHUNK), b""))
    except OSError:
        return []
    finally:
        os.close(file)
    return content.decode("utf-8", "surrogateescape").splitlines()
