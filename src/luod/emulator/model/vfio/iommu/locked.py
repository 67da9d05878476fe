"""Memory that is locked for DMA, and its limit: RLIMIT_MEMLOCK, for a process without CAP_IPC_LOCK.

A container counts what a process has locked, an iommufd what all processes of a user have. It follows
vfio_iommu_type1.c and iommufd/pages.c of Linux 7.3. Pages that a process locked itself, with mlock(2), are in `own`.
"""

from __future__ import annotations

import errno
from collections.abc import Hashable

from luod.emulator.model.ports import Errno
from luod.emulator.model.vfio.ports import Locker


class LockedMemory:
    """The bytes that one kernel has locked, by user or process."""

    def __init__(self) -> None:
        self._bytes: dict[Hashable, int] = {}

    def account(self, locker: Locker | None, *, by_process: bool) -> Account:
        """Returns what memory of `locker` counts against; None: against nothing."""
        if locker is None:
            return Account(self._bytes, None, None, 0)
        if by_process:
            return Account(self._bytes, ("process", locker.process), locker.process, locker.limit - locker.own)
        return Account(self._bytes, ("user", locker.user), locker.process, locker.limit)


class Account:
    """The account of one user or process, as one mapping sees it."""

    def __init__(self, table: dict[Hashable, int], key: Hashable, process: Hashable, limit: int) -> None:
        """`key` None: nothing is counted. `process` made the mapping. `limit` is in bytes."""
        self._table = table
        self._key = key
        self._process = process
        self._limit = limit

    def goes_over_to(self, other: Account) -> bool:
        """Returns whether memory that counts here is counted again when `other` takes it: another process has it."""
        return self._key is not None and (self._key, self._process) != (other._key, other._process)

    def add(self, length: int) -> None:
        """Counts locked bytes. Raises Errno(ENOMEM) beyond the limit."""
        if self._key is None:
            return
        total = self._table.get(self._key, 0) + length
        if total > self._limit:
            raise Errno(errno.ENOMEM)
        self._table[self._key] = total

    def remove(self, length: int) -> None:
        """Counts them no more."""
        if self._key is not None:
            self._table[self._key] -= length
