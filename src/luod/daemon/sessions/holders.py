"""Finds the files of luod that another process has open, too, before luod is stopped: files of luod alone are lost
then.

It compares open file descriptions with kcmp(2). It does not see a file in a socket's queue, or one that is mapped and
closed.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from functools import cmp_to_key
from typing import Final

from luod.daemon.supervisor import protocol
from luod.linux import Fd, syscall

_KCMP_FILE: Final = 0
_PID_1: Final = 1
"""It has every session in its store, under systemd, and uses none."""
_ORDER: Final = {0: 0, 1: -1, 2: 1}
"""The results of kcmp as a comparison."""


class Holders:
    """Searches for all of luod's sessions at once, one search at a time, since it costs processor time. In a running
    loop.
    """

    def __init__(self, fds: Mapping[str, Fd]) -> None:
        """`fds` are luod's, by the names under which keep has them."""
        self._fds = fds
        self._loop = asyncio.get_running_loop()
        self._turn = asyncio.Lock()
        self._began = float("-inf")
        self._looked: frozenset[str] = frozenset()
        self._found: dict[str, int] = {}

    async def open_elsewhere(self, name: str) -> int | None:
        """Returns a process other than luod's that has the session open whose fd has this name, or None.

        A search that begins during the wait is enough. None also if that cannot be determined, or luod does not have
        the session.
        """
        asked = self._loop.time()
        async with self._turn:
            if name not in self._fds:
                return None
            if self._began < asked or name not in self._looked:
                await self._look()
        return self._found.get(name)

    async def _look(self) -> None:
        self._began = self._loop.time()
        sessions = [name for name in self._fds if name.startswith((protocol.OUTGOING, protocol.INCOMING))]
        copies = {name: self._fds[name].duplicate() for name in sessions}
        try:
            self._found = await asyncio.to_thread(open_elsewhere, copies, os.getppid(), custodian=_PID_1)
        except OSError:
            self._found = {}
        finally:
            self._looked = frozenset(copies)
            for copy in copies.values():
                copy.close()


def open_elsewhere(fds: Mapping[str, Fd], own: int, *, custodian: int | None = None) -> dict[str, int]:
    """Returns those `fds`, by name, that a process other than `own` and its descendants has open, and its id.

    `custodian` is a process that does not count, since it has them open for luod. It is slow on a large host: run
    it in a thread. Raises OSError: this kernel has no kcmp(2).
    """
    if not fds:
        return {}
    me = os.getpid()

    def compare(mine: int, pid: int, other: int) -> int:
        return _ORDER[syscall("kcmp", me, pid, _KCMP_FILE, mine, other)]

    numbers = {name: fd.fileno() for name, fd in fds.items()}
    links = {os.readlink(f"/proc/self/fd/{number}") for number in numbers.values()}

    # In the kernel's own order of open file descriptions, so that bisection finds each file of another process.
    def by_file(mine: tuple[str, int], other: tuple[str, int]) -> int:
        return compare(mine[1], me, other[1])

    ordered = sorted(numbers.items(), key=cmp_to_key(by_file))
    found: dict[str, int] = {}
    for pid in _others(own):
        if pid == custodian:
            continue
        for other in _open(pid, links):
            low, high = 0, len(ordered)
            while low < high:
                middle = (low + high) // 2
                try:
                    order = compare(ordered[middle][1], pid, other)
                except OSError:
                    break  # the process has ended, or closed it
                if order == 0:
                    found[ordered[middle][0]] = pid
                    break
                low, high = (middle + 1, high) if order < 0 else (low, middle)
    return found


def _others(own: int) -> list[int]:
    """Returns the processes that are neither `own` nor its descendants."""
    parents: dict[int, int] = {}
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            with open(f"/proc/{entry}/stat", encoding="utf-8", errors="replace") as file:
                status = file.read()
        except OSError:
            continue
        parents[int(entry)] = int(status.rpartition(")")[2].split()[1])

    def is_own(pid: int) -> bool:
        while pid in parents and pid != own:
            pid = parents[pid]
        return pid == own

    return [pid for pid in parents if not is_own(pid)]


def _open(pid: int, links: set[str]) -> list[int]:
    """Returns the fds of a process that may be the same files, from their links."""
    found = []
    try:
        numbers = os.listdir(f"/proc/{pid}/fd")
    except OSError:
        return []
    for number in numbers:
        try:
            link = os.readlink(f"/proc/{pid}/fd/{number}")
        except OSError:
            continue
        if link in links:
            found.append(int(number))
    return found
