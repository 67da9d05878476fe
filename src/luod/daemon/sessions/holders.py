"""Finds the files of luod that another process has open, too, before luod is stopped: files of luod alone are lost
then.

It compares open file descriptions with kcmp(2). It does not see a file in a socket's queue, or one that is mapped and
closed.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Awaitable, Callable, Mapping
from contextlib import ExitStack
from functools import cmp_to_key

from luod.daemon.supervisor import protocol
from luod.frozen import frozen
from luod.linux import Fd, syscall
from luod.static import Final, Literal

_KCMP_FILE: Final = 0
_PID_1: Final = 1
"""It has every session in its store, under systemd, and uses none."""
_ORDER: Final = {0: 0, 1: -1, 2: 1}
"""The results of kcmp as a comparison."""
_ENDED: Final = (FileNotFoundError, ProcessLookupError)
"""The process has ended, or has closed the fd."""
_CLOSED: Final = (errno.ESRCH, errno.EBADF)
"""The same from kcmp."""

Holder = int | Literal["unknown"] | None
"""The id of a process that has a session open; None if no process has; "unknown" if that cannot be determined."""


_AGAIN_PAUSES: Final = (0.05, 0.2, 0.5)
"""The seconds before each further look of `still_open`."""


@frozen
class Found:
    """`pids`: a process of each file that one has open. `unseen`: a process whose files luod may not see, or None."""

    pids: Mapping[str, int]
    unseen: int | None


class Holders:
    """Searches for all of luod's sessions at once, one search at a time, since it costs processor time. In a running
    loop.
    """

    def __init__(self, fds: Mapping[str, Fd]) -> None:
        """`fds` are luod's, by the names under which the supervisor has them."""
        self._fds = fds
        self._loop = asyncio.get_running_loop()
        self._turn = asyncio.Lock()
        self._began = float("-inf")
        self._looked: frozenset[str] = frozenset()
        self._found = Found({}, None)

    async def open_elsewhere(self, name: str) -> Holder:
        """Returns a process other than luod's that has the session open whose fd has this name.

        A search that begins during the wait is enough, if it is not cancelled. None also if luod does not have the
        session.
        """
        asked = self._loop.time()
        async with self._turn:
            if name not in self._fds:
                return None
            if self._began < asked or name not in self._looked:
                try:
                    await self._look()
                except OSError:
                    return "unknown"
            found = self._found
        return found.pids.get(name, None if found.unseen is None else "unknown")

    async def _look(self) -> None:
        """Raises OSError, KernelRefused: nothing is known, as after a cancellation."""
        began = self._loop.time()
        sessions = [name for name in self._fds if name.startswith((protocol.OUTGOING, protocol.INCOMING))]
        with ExitStack() as opened:
            copies = {name: opened.enter_context(self._fds[name].duplicate()) for name in sessions}
            found = await asyncio.to_thread(open_elsewhere, copies, os.getppid(), custodian=_PID_1)
        self._found, self._looked, self._began = found, frozenset(copies), began


async def still_open(look: Callable[[], Awaitable[Holder]]) -> Holder:
    """Returns what `look` finds, as `Holders.open_elsewhere`. A process counts if one is also found a moment later.

    A process that is just being started has every file of the one that starts it, until its exec. PID 1, which has all
    sessions, starts many after a cancelled update.
    """
    found = await look()
    for pause in _AGAIN_PAUSES:
        if not isinstance(found, int):
            break
        await asyncio.sleep(pause)
        found = await look()
    return found


def open_elsewhere(fds: Mapping[str, Fd], own: int, *, custodian: int | None = None) -> Found:
    """Finds those `fds` that a process other than `own` and its descendants has open.

    `custodian` is a process that does not count, since it has them open for luod. It is slow on a large host: run
    it in a thread. Raises OSError: this kernel has no kcmp(2), or this process has no free fd.
    """
    if not fds:
        return Found({}, None)
    me = os.getpid()

    def compare(mine: int, pid: int, other: int) -> int:
        return _ORDER[syscall("kcmp", me, pid, _KCMP_FILE, mine, other)]

    numbers = {name: fd.fileno() for name, fd in fds.items()}
    links = {os.readlink(f"/proc/self/fd/{number}") for number in numbers.values()}

    # In the kernel's own order of open file descriptions, so that bisection finds each file of another process.
    def by_file(mine: tuple[str, int], other: tuple[str, int]) -> int:
        return compare(mine[1], me, other[1])

    ordered = sorted(numbers.items(), key=cmp_to_key(by_file))

    def search(pid: int, other: int) -> str | None:
        low, high = 0, len(ordered)
        while low < high:
            middle = (low + high) // 2
            try:
                order = compare(ordered[middle][1], pid, other)
            except OSError as error:
                if error.errno in _CLOSED:
                    return None
                raise
            if order == 0:
                return ordered[middle][0]
            low, high = (middle + 1, high) if order < 0 else (low, middle)
        return None

    pids: dict[str, int] = {}
    unseen = None
    for pid in _others(own):
        if pid == custodian:
            continue
        try:
            pids |= {name: pid for other in _open(pid, links) if (name := search(pid, other)) is not None}
        except PermissionError:
            unseen = pid
    return Found(pids, unseen)


def _others(own: int) -> list[int]:
    """Returns the processes that are neither `own` nor its descendants."""
    parents: dict[int, int] = {}
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            with open(f"/proc/{entry}/stat", encoding="utf-8", errors="replace") as file:
                status = file.read()
        except _ENDED:
            continue
        parents[int(entry)] = int(status.rpartition(")")[2].split()[1])

    def is_own(pid: int) -> bool:
        while pid in parents and pid != own:
            pid = parents[pid]
        return pid == own

    return [pid for pid in parents if not is_own(pid)]


def _open(pid: int, links: set[str]) -> list[int]:
    """Returns the fds of a process that may be the same files, from their links. Raises PermissionError."""
    found = []
    try:
        numbers = os.listdir(f"/proc/{pid}/fd")
    except _ENDED:
        return []
    for number in numbers:
        try:
            link = os.readlink(f"/proc/{pid}/fd/{number}")
        except _ENDED:
            continue
        if link in links:
            found.append(int(number))
    return found
