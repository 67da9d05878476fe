"""How much memory luoemu may still allocate: that of the host, and of the cgroups that limit it, as in a container.

It is asked before a large copy only. An answer that cannot be read limits nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

_MEMINFO: Final = Path("/proc/meminfo")
_CGROUPS: Final = Path("/proc/self/cgroup")
_V2: Final = ("memory.max", "memory.current", "inactive_file")
_V1: Final = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
"""The limit, the use, and the entry of memory.stat with the part of the use that the kernel gives back when asked."""


def memory(root: Path = Path("/sys/fs/cgroup")) -> int:
    """Returns the bytes that this process could allocate now without swapping. `root` is where cgroups are mounted."""
    return min([_of_host(), *_of_cgroups(root)])


def _of_host() -> int:
    for line in _MEMINFO.read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0


def _of_cgroups(root: Path) -> list[int]:
    """Returns what is left of each limit on this process, in bytes."""
    left: list[int] = []
    for line in _CGROUPS.read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            mounted, names = root, _V2
        elif "memory" in controllers.split(","):
            mounted, names = root / "memory", _V1
        else:
            continue
        # Without a namespace of its own, a container has the path of the host, and its own cgroup at the mount.
        place = mounted / path.lstrip("/")
        while place != mounted.parent:
            left += _left(place, *names)
            place = place.parent
    return left


def _left(place: Path, limit: str, use: str, reclaimable: str) -> list[int]:
    """Returns the bytes that are left in one cgroup; [] where it sets no limit, or is not there."""
    try:
        used = int((place / use).read_text())
        entries = dict(entry.split() for entry in (place / "memory.stat").read_text().splitlines())
        return [int((place / limit).read_text()) - used + int(entries.get(reclaimable, 0))]
    except (OSError, ValueError):  # ValueError: "max"
        return []
