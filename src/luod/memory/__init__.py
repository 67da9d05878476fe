"""The memory that a process can still use, and the limit that decides it. Reads only /proc and the cgroup file system.

A RETRIEVE_FD that runs out of memory frees the file for good, and a PRESERVE_FD that does so gets its caller killed
(docs/hazards.md, H1 and H2), so `luod.liveupdate` checks here first. Retrieved memory exists already and is only
charged: to the cgroups above the process and, under strict overcommit, to the machine. New memory must also be free.

There are three answers: a `Room`; None, when nothing limits; and `Unknown`, when a possible limit cannot be read, such
as in a chroot without /proc. luod can answer for such a process (`luod.ipc.client.limits`).
"""

from __future__ import annotations

import errno
import os
from _weakref import ref  # as in weakref, which has more to import

from luod.errors import KernelRefused, MemoryUnknown, NotEnoughMemory
from luod.frozen import frozen
from luod.memory import cgroup
from luod.memory.source import Keeping, Live
from luod.static import TYPE_CHECKING, Final, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

    from luod.memory.source import Source

    T = TypeVar("T")
    Root = str | os.PathLike[str]

_STRICT_OVERCOMMIT: Final = 2
_NO_FD: Final = (errno.EMFILE, errno.ENFILE)
_UNLIMITED_V1: Final = 2**60
"""cgroup v1 writes "no limit" as the largest multiple of a page. Values from here on mean that."""
_WHYS_MAX: Final = 3
_OVERCOMMIT: Final = "/proc/sys/vm/overcommit_memory"
_MEMINFO: Final = "/proc/meminfo"


@frozen
class Room:
    """The remainder of one limit: `available` bytes (0 or more). `limit` is its description or a cgroup's path."""

    available: int
    limit: str


@frozen
class Unknown:
    """Some limit could not be read. `why` names it; `room` is the tightest of the others.

    `errno` is EMFILE or ENFILE where there was no free fd.
    """

    why: str
    room: Room | None = None
    errno: int | None = None


Answer = Room | Unknown | None
"""None: nothing limits."""


class Limits(Protocol):
    """Another source of this process's limits, for use where it cannot read them itself."""

    def chargeable(self, enough: int) -> Answer: ...
    def free(self, enough: int) -> Answer: ...
    def close(self) -> None: ...


def chargeable(
    root: Root = "/", process: int | None = None, *, enough: int | None = None, limits: Limits | None = None
) -> Answer:
    """Returns the tightest existing limit on memory that would be charged to this process.

    Limits: `memory.max` (v1: `memory.limit_in_bytes`) of each cgroup from this process's up to the root, and
    CommitLimit under `vm.overcommit_memory=2`. Clean inactive page cache counts as available, since the kernel drops it
    before it fails a charge. Limits of cgroups outside this process's cgroup namespace cannot be seen.

    `root` is the directory of /proc and /sys. `process` is the pid, in that /proc, of another process. `enough` is the
    number of bytes that the caller needs: where they are left, page cache is not counted, which is expensive. `limits`
    is consulted where the answer is Unknown.
    """
    answer = _answer(Live(root), process, enough, new=False)
    if isinstance(answer, Unknown) and limits is not None:
        return _better(answer, limits.chargeable(enough or 0))
    return answer


def free(
    root: Root = "/", process: int | None = None, *, enough: int | None = None, limits: Limits | None = None
) -> Answer:
    """Returns the answer of `chargeable`, bounded by MemAvailable: for memory that is not allocated yet."""
    answer = _answer(Live(root), process, enough, new=True)
    if isinstance(answer, Unknown) and limits is not None:
        return _better(answer, limits.free(enough or 0))
    return answer


def ceilings(root: Root = "/", process: int | None = None) -> tuple[list[Room], str]:
    """Returns the limits of `chargeable`, each as a whole: its remainder if nothing were used yet.

    The text names the limits that could not be read; "" when all could.
    """
    source, whys, found = Live(root), _Whys(), list[Room]()
    for directory, v1 in whys.of(_cgroups, source, process) or ():
        limit = whys.of(_limit, source, directory, v1)
        if limit is not None:
            found.append(Room(limit, f"the memory limit of cgroup {directory}"))
    if whys.of(_number, source, _OVERCOMMIT) == _STRICT_OVERCOMMIT:
        commit = whys.of(_member, source, _MEMINFO, "CommitLimit")
        if commit is not None:
            found.append(Room(commit * 1024, "strict overcommit (CommitLimit)"))
    return found, whys.text


def require(needed: int, answer: Answer, purpose: str, *, hint: str = "") -> None:
    """Raises NotEnoughMemory when `answer` leaves less than `needed` bytes, rounded up to pages.

    Raises MemoryUnknown when the answer is unknown; KernelRefused (EMFILE, ENFILE) when there was no free fd. `purpose`
    begins the message. `hint` replaces the errors' own hint, which is for a RETRIEVE_FD.
    """
    page = os.sysconf("SC_PAGE_SIZE")
    needed = -(-needed // page) * page
    room = known(answer)
    if room is not None and needed > room.available:
        raise NotEnoughMemory(
            f"{purpose} takes {needed} bytes and {room.limit} leaves {room.available}",
            needed=needed,
            available=room.available,
            limit=room.limit,
            hint=hint,
        )
    if isinstance(answer, Unknown) and answer.errno is not None:
        raise KernelRefused(answer.errno, "open", "there is no free fd to read the memory limits; nothing was changed")
    if isinstance(answer, Unknown):
        raise MemoryUnknown(
            f"{purpose} takes {needed} bytes, and it is not known whether they are left: {answer.why}",
            needed=needed,
            why=answer.why,
        )


def known(answer: Answer) -> Room | None:
    """Returns the known limit, for a caller that accepts that others are unknown."""
    return answer.room if isinstance(answer, Unknown) else answer


class Kept:
    """The files with this process's limits, open: for use after chroot(2). They are closed with the last reference.

    `keep` makes one.
    """

    def __init__(self, source: Keeping) -> None:
        self._source = source
        self._process = os.getpid()

    def chargeable(self, enough: int) -> Answer:
        return self._answer(enough, new=False)

    def free(self, enough: int) -> Answer:
        return self._answer(enough, new=True)

    @property
    def current(self) -> bool:
        """Returns whether its files are those of this process's cgroup."""
        return os.getpid() == self._process and _Whys().of(_cgroups, self._source, None) is not None

    def _answer(self, enough: int | None, *, new: bool) -> Answer:
        if os.getpid() != self._process:
            return Unknown("the files that were kept open are those of the process before fork(2)")
        return _answer(self._source, None, enough, new=new)


_kept: ref[Kept] | None = None


def keep() -> Kept | None:
    """Returns the open files with this process's limits, the same for all callers. None: they cannot be read."""
    global _kept
    kept = None if _kept is None else _kept()
    if kept is None or not kept.current:
        kept = _opened()
        _kept = None if kept is None else ref(kept)
    return kept


def _opened() -> Kept | None:
    source = Keeping()
    if isinstance(_answer(source, None, None, new=True), Unknown):
        source.close()
        return None
    for directory, v1 in _cgroups(source, None):
        # Needed if the cgroup gets a limit later.
        for name in ("memory.usage_in_bytes" if v1 else "memory.current", "memory.stat"):
            try:
                source.text(f"{directory}/{name}")
            except OSError:
                pass
    source.seal()
    return Kept(source)


def _better(own: Unknown, other: Answer) -> Answer:
    """Returns the better of two answers; the second has more information."""
    rooms = [room for room in (known(own), known(other)) if room is not None]
    room = min(rooms, key=lambda each: each.available, default=None)
    return Unknown(f"{own.why}; {other.why}", room, own.errno) if isinstance(other, Unknown) else room


def _answer(source: Source, process: int | None, enough: int | None, *, new: bool) -> Answer:
    whys, rooms = _Whys(), list[Room | None]()
    for directory, v1 in whys.of(_cgroups, source, process) or ():
        rooms.append(whys.of(_cgroup_room, source, directory, v1, enough))
    rooms.append(whys.of(_commit_room, source))
    if new:
        rooms.append(whys.of(_machine_room, source))
    tightest = min((room for room in rooms if room is not None), key=lambda room: room.available, default=None)
    return Unknown(whys.text, tightest, whys.errno) if whys.text else tightest


class _Whys:
    """Collects the limits that could not be read."""

    def __init__(self) -> None:
        self._found: list[str] = []
        self.errno: int | None = None

    @property
    def text(self) -> str:
        more = "; and more" if len(self._found) > _WHYS_MAX else ""
        return "; ".join(self._found[:_WHYS_MAX]) + more

    def of(self, read: Callable[..., T], *arguments: object) -> T | None:
        try:
            return read(*arguments)
        except OSError as error:
            if error.errno in _NO_FD:
                self.errno = error.errno
            self._found.append(f"{error.filename}: {error.strerror}" if error.filename else str(error))
        except ValueError as error:
            self._found.append(str(error))
        return None


# Each of these raises OSError or ValueError for a file that cannot be read, or that no kernel writes.


def _cgroups(source: Source, process: int | None) -> list[tuple[str, bool]]:
    """Returns the directories of the process's memory cgroups, innermost first, each with whether it is of v1."""
    path = f"/proc/{'self' if process is None else process}/cgroup"
    try:
        text = source.text(path)
    except FileNotFoundError:
        # A kernel without cgroups has neither file. A /proc mounted with subset=pid lacks the second only.
        if source.exists("/proc/self/stat") and source.exists(_MEMINFO) and not source.exists("/proc/cgroups"):
            return []
        raise
    if not text:
        if source.really_empty(path):
            return []
        raise ValueError(f"{path}: it is empty, so something is mounted over it")
    member = cgroup.membership_of(text)
    v1 = member is not None and member[0] == cgroup.V1
    return [(directory, v1) for directory in source.directories(text)]


def _limit(source: Source, directory: str, v1: bool) -> int | None:
    """Returns a cgroup's own limit in bytes; None without a limit."""
    path = f"{directory}/{'memory.limit_in_bytes' if v1 else 'memory.max'}"
    try:
        text = source.text(path).strip()
    except FileNotFoundError:
        # A cgroup of v2 lacks the file where its memory controller is not enabled, and in the root cgroup.
        if not v1 and source.exists(f"{directory}/cgroup.procs"):
            return None
        raise
    if text == "max":
        return None
    limit = _parsed(path, text)
    return None if v1 and limit >= _UNLIMITED_V1 else limit


def _cgroup_room(source: Source, directory: str, v1: bool, enough: int | None) -> Room | None:
    limit = _limit(source, directory, v1)
    used, prefix = ("memory.usage_in_bytes", "total_") if v1 else ("memory.current", "")
    if limit is None:
        return None
    left = limit - _number(source, f"{directory}/{used}")
    if enough is None or left < enough:
        stat = _numbers(source, f"{directory}/memory.stat")
        unclean = sum(stat.get(prefix + key, 0) for key in ("file_dirty", "dirty", "file_writeback", "writeback"))
        left += max(0, stat.get(f"{prefix}inactive_file", 0) - unclean)
    return Room(max(0, left), f"the memory limit of cgroup {directory}")


def _commit_room(source: Source) -> Room | None:
    """Returns the remainder of strict overcommit, as __vm_enough_memory() counts it for a process without privilege."""
    if _number(source, _OVERCOMMIT) != _STRICT_OVERCOMMIT:
        return None
    limit, committed = _member(source, _MEMINFO, "CommitLimit"), _member(source, _MEMINFO, "Committed_AS")
    own = int(source.text("/proc/self/statm").split()[0]) * os.sysconf("SC_PAGE_SIZE")
    reserved = _number(source, "/proc/sys/vm/admin_reserve_kbytes") * 1024
    reserved += min(own // 32, _number(source, "/proc/sys/vm/user_reserve_kbytes") * 1024)
    return Room(max(0, (limit - committed) * 1024 - reserved), "strict overcommit (CommitLimit)")


def _machine_room(source: Source) -> Room:
    return Room(_member(source, _MEMINFO, "MemAvailable") * 1024, "the machine's free memory (MemAvailable)")


def _parsed(path: str, text: str) -> int:
    if not text.isascii() or not text.isdigit():
        raise ValueError(f"{path}: it says {text!r:.40}, which is not a number")
    return int(text)


def _number(source: Source, path: str) -> int:
    return _parsed(path, source.text(path).strip())


def _numbers(source: Source, path: str) -> dict[str, int]:
    """Returns the numbers of a file of lines `name value` or `name: value kB`."""
    found = {}
    for line in source.text(path).splitlines():
        fields = line.replace(":", " ").split()
        if len(fields) >= 2 and fields[1].isdigit():
            found[fields[0]] = int(fields[1])
    return found


def _member(source: Source, path: str, name: str) -> int:
    numbers = _numbers(source, path)
    if name not in numbers:
        raise ValueError(f"{path}: it has no {name}")
    return numbers[name]
