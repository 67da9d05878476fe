"""How much memory this process can still take, and what says so. Reads /proc and /sys/fs/cgroup; changes nothing.

A RETRIEVE_FD that runs out of memory frees the file for good (hazard H1), and a PRESERVE_FD that does gets its caller
killed (H2), so `luod.liveupdate` asks here first. What is retrieved exists already and is only charged: to the cgroups
above the process and, under strict overcommit, to the machine. What is new must also be free.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from luod.errors import NotEnoughMemory

_STRICT_OVERCOMMIT: Final = 2
_UNLIMITED_V1: Final = 2**60
"""cgroup v1 says "no limit" with the largest multiple of a page; anything from here on is that."""


@dataclass(frozen=True)
class Room:
    """What one limit leaves: `available` bytes (0 or more); `limit` says which, in words or as a cgroup's path."""

    available: int
    limit: str


def chargeable(root: Path = Path("/"), process: int | None = None) -> Room | None:
    """The tightest limit on memory that exists and would be charged to this process; None when nothing limits it.

    Limits: `memory.max` (v1: `memory.limit_in_bytes`) of each cgroup from this process's up to the root, and
    CommitLimit under `vm.overcommit_memory=2`. Clean inactive page cache counts as available, since the kernel drops it
    before it fails a charge. Limits of cgroups outside this process's cgroup namespace cannot be seen. `root` is where
    /proc and /sys are found; `process` is the pid of another process to ask about, as far as this one can see.
    """
    return min(_limits(root, process), key=lambda room: room.available, default=None)


def free(root: Path = Path("/"), process: int | None = None) -> Room | None:
    """As `chargeable`, and no more than MemAvailable: for memory that has yet to be allocated."""
    rooms = list(_limits(root, process))
    meminfo = _numbers(root / "proc/meminfo")
    if "MemAvailable" in meminfo:
        rooms.append(Room(meminfo["MemAvailable"] * 1024, "the machine's free memory (MemAvailable)"))
    return min(rooms, key=lambda room: room.available, default=None)


def ceilings(root: Path = Path("/"), process: int | None = None) -> Iterator[Room]:
    """The limits of `chargeable`, each as a whole: what it would leave if nothing were used yet."""
    for cgroup in _cgroups(root, process):
        limit = _cgroup_limit(cgroup)
        if limit is not None:
            yield Room(limit, f"the memory limit of cgroup /{cgroup.relative_to(root)}")
    if _number(root / "proc/sys/vm/overcommit_memory") == _STRICT_OVERCOMMIT:
        limit = _numbers(root / "proc/meminfo").get("CommitLimit")
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


def _limits(root: Path, process: int | None) -> Iterator[Room]:
    for cgroup in _cgroups(root, process):
        room = _cgroup_room(cgroup, "/" + str(cgroup.relative_to(root)))
        if room is not None:
            yield room
    room = _commit_room(root)
    if room is not None:
        yield room


def _cgroups(root: Path, process: int | None) -> Iterator[Path]:
    """The directories of a process's memory cgroups, innermost first, as far up as they are mounted here."""
    for line in _lines(root / "proc" / str(process or "self") / "cgroup"):
        hierarchy, controllers, path = line.split(":", 2)
        unified = hierarchy == "0" and not controllers
        if not unified and "memory" not in controllers.split(","):
            continue
        mount = _mount(root, unified)
        if mount is None:
            continue
        mounted, point = mount
        # A path outside what is mounted here (another cgroup namespace's) leaves only the mount's own top to look at.
        inside = path[len(mounted.rstrip("/")) :] if (path + "/").startswith(mounted.rstrip("/") + "/") else ""
        parts = [part for part in inside.split("/") if part]
        top = root / point.lstrip("/")
        if ".." in parts:
            parts = []
        for count in range(len(parts), -1, -1):
            yield top.joinpath(*parts[:count])


def _mount(root: Path, unified: bool) -> tuple[str, str] | None:
    """(what of the hierarchy is mounted, where) of the unified or of the memory hierarchy, from mountinfo."""
    for line in _lines(root / "proc/self/mountinfo"):
        before, _, after = line.partition(" - ")
        fields, kind = before.split(" "), after.split(" ")
        if len(fields) < 5 or len(kind) < 3:
            continue
        if kind[0] == ("cgroup2" if unified else "cgroup") and (unified or "memory" in kind[2].split(",")):
            return _unescape(fields[3]), _unescape(fields[4])
    return None


def _unescape(path: str) -> str:
    """mountinfo writes blanks and backslashes of a path as three octal digits."""
    head, *rest = path.split("\\")
    return head + "".join(chr(int(piece[:3], 8)) + piece[3:] for piece in rest)


def _cgroup_limit(directory: Path) -> int | None:
    limit = _number(directory / "memory.max")
    if limit is None:
        limit = _number(directory / "memory.limit_in_bytes")
    return None if limit is None or limit >= _UNLIMITED_V1 else limit


def _cgroup_room(directory: Path, name: str) -> Room | None:
    used, cache = "memory.current", "inactive_file"
    if _number(directory / "memory.max") is None:
        used, cache = "memory.usage_in_bytes", "total_inactive_file"
    limit, current = _cgroup_limit(directory), _number(directory / used)
    if limit is None or current is None:
        return None
    stat = _numbers(directory / "memory.stat")
    prefix = "total_" if cache.startswith("total_") else ""
    unclean = sum(stat.get(prefix + key, 0) for key in ("file_dirty", "dirty", "file_writeback", "writeback"))
    clean = max(0, stat.get(cache, 0) - unclean)
    return Room(max(0, limit - current + clean), f"the memory limit of cgroup {name}")


def _commit_room(root: Path) -> Room | None:
    """What strict overcommit leaves, as the kernel's __vm_enough_memory() counts it for a process without privilege."""
    if _number(root / "proc/sys/vm/overcommit_memory") != _STRICT_OVERCOMMIT:
        return None
    meminfo = _numbers(root / "proc/meminfo")
    if "CommitLimit" not in meminfo or "Committed_AS" not in meminfo:
        return None
    reserved = (_number(root / "proc/sys/vm/admin_reserve_kbytes") or 0) * 1024
    statm = _lines(root / "proc/self/statm")
    own = int(statm[0].split()[0]) * os.sysconf("SC_PAGE_SIZE") if statm else 0
    reserved += min(own // 32, (_number(root / "proc/sys/vm/user_reserve_kbytes") or 0) * 1024)
    left = (meminfo["CommitLimit"] - meminfo["Committed_AS"]) * 1024 - reserved
    return Room(max(0, left), "strict overcommit (CommitLimit)")


def _number(path: Path) -> int | None:
    """The number in a file; None when the file is missing or says something else, such as `max`."""
    lines = _lines(path)
    return int(lines[0]) if lines and lines[0].strip().isdigit() else None


def _numbers(path: Path) -> dict[str, int]:
    """The numbers of a file of lines `name value` or `name: value kB`."""
    found = {}
    for line in _lines(path):
        fields = line.replace(":", " ").split()
        if len(fields) >= 2 and fields[1].isdigit():
            found[fields[0]] = int(fields[1])
    return found


def _lines(path: Path) -> list[str]:
    """A file's lines; none when it is not there or not for us: then it limits nothing that we can see."""
    try:
        return path.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return []
