"""The memory that a participant's PRESERVEs need, and whether it is available (docs/hazards.md, H1 and H2).

A PRESERVE fills the holes of a memfd, migrates every page in the memory that KHO keeps for the next kernel (scratch),
and takes 32 bytes a page for its own lists. A caller without enough memory is killed. It is charged to the caller's
cgroups, which will hold the memory in the next kernel too, so what fits now can be retrieved then.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from luod import memory
from luod.ipc.types.sessions import Limit, MemoryRoom
from luod.memory import Unknown
from luod.static import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    Root = str | os.PathLike[str]

    class File(Protocol):
        """The declared sizes of a file in bytes."""

        @property
        def size(self) -> int: ...
        @property
        def allocated(self) -> int: ...


_SCRATCH: Final = "sys/kernel/debug/kho/out/scratch_len"
_UNKNOWN_SCRATCH: Final = 3 / 8
"""The part of all memory, if debugfs does not show it: no more was ever measured."""
_LIST_BYTES_A_PAGE: Final = 32
UNSEEN: Final = Unknown("the process cannot be seen in luod's /proc, or has ended")


def needed(files: Iterable[File], root: Root = "/") -> int:
    """Returns the bytes that preserving `files` needs at most, beyond those they have."""
    page = os.sysconf("SC_PAGE_SIZE")
    files = list(files)
    holes = sum(max(0, file.size - file.allocated) for file in files)
    lists = sum(-(-file.size // page) for file in files) * _LIST_BYTES_A_PAGE
    moved = min(sum(min(file.allocated, file.size) for file in files), scratch(root))
    return holes + lists + moved


def scratch_areas(root: Root = "/") -> list[int] | None:
    """Returns the bytes of each area of KHO's scratch memory; None without debugfs, which shows them."""
    try:
        return [int(word, 0) for word in _read(root, _SCRATCH).split()]
    except (OSError, ValueError):
        return None


def scratch(root: Root = "/") -> int:
    """Returns the bytes of KHO's scratch memory; without debugfs its maximum."""
    areas = scratch_areas(root)
    return int(machine(root) * _UNKNOWN_SCRATCH) if areas is None else sum(areas)


def machine(root: Root = "/") -> int:
    """Returns the bytes of memory of the machine."""
    try:
        for line in _read(root, "proc/meminfo").splitlines():
            if line.startswith("MemTotal:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def require(files: Iterable[File], process: int | None, name: str, root: Root = "/") -> Unknown | None:
    """Raises NotEnoughMemory when the process `process`, shown as `name`, could be killed over preserving `files`.

    `process` is a pid in this process's /proc; None: it cannot be seen there. Returns the answer if not every limit
    could be read; the others are large enough. Preflight makes that a finding, so it is not refused here.
    """
    files = list(files)
    if not files:
        return None
    hint = "free memory, or have the workload fill its memory beforehand"
    if not os.path.exists(os.path.join(root, _SCRATCH)):
        hint += "; with debugfs mounted luod knows how much may have to be moved, and asks for no more"
    left = UNSEEN if process is None else memory.free(root, process)
    memory.require(needed(files, root), memory.known(left), f"PRESERVE for {name}", hint=hint)
    return left if isinstance(left, Unknown) else None


def room(process: int | None) -> MemoryRoom:
    """Returns the memory that `process` can still use, for itself. `process` as of `require`."""
    chargeable = UNSEEN if process is None else memory.chargeable(process=process)
    free = UNSEEN if process is None else memory.free(process=process)
    whys = [answer.why for answer in (chargeable, free) if isinstance(answer, Unknown)]
    return MemoryRoom(chargeable=_limit(chargeable), free=_limit(free), unknown=whys[0] if whys else None)


def _limit(answer: memory.Answer) -> Limit | None:
    left = memory.known(answer)
    return None if left is None else Limit(left.available, left.limit)


def _read(root: Root, path: str) -> str:
    with open(os.path.join(root, path), encoding="ascii") as file:
        return file.read()
