"""The handler of memfds, format `memfd-v2`: the files it accepts, the state it keeps, the file it returns.

It follows mm/memfd_luo.c of Linux 7.3; its answers are in docs/kernel.md, 5 and 7.
"""

from __future__ import annotations

import errno
from collections.abc import Hashable
from dataclasses import dataclass

from luod.emulator.model.handler import FileHandler
from luod.emulator.model.ports import PAGE, Errno, Host, HostFile, Kind, Retryable
from luod.uapi import liveupdate_next as posted
from luod.uapi.memfd import F_SEAL_EXEC, F_SEAL_FUTURE_WRITE, F_SEAL_GROW, F_SEAL_SEAL, F_SEAL_SHRINK, F_SEAL_WRITE

ALL_SEALS = F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_FUTURE_WRITE | F_SEAL_EXEC

UINT_MAX = 2**32 - 1


@dataclass
class MemfdState:
    """The state at PRESERVE; freeze updates `position`. Bytes and F_SEAL_* bits."""

    size: int
    seals: int
    position: int
    named: bool = False
    """It is a file of a tmpfs."""


@dataclass
class MemfdRecord:
    """The memory of one memfd after a kexec. `kept` is owned; None once the memory was passed on or freed."""

    kept: HostFile | None
    size: int
    seals: int
    position: int
    named: bool = False

    def drop(self) -> None:
        kept, self.kept = self.kept, None
        if kept is not None:
            kept.close()


class MemfdHandler(FileHandler[MemfdState, MemfdRecord]):
    """Handles any shmem file without a name. `host` makes the new memfd of a retrieve.

    With `tmpfs` (profile `next`) it also handles files of a tmpfs. Only their contents are carried. They are retrieved
    into another file of a tmpfs, which the caller made. The format's name is assumed to stay.
    """

    compatible = "memfd-v2"
    freezes = True

    def __init__(self, host: Host, *, tmpfs: bool = False) -> None:
        self._host = host
        self.takes_target = tmpfs

    def can_preserve(self, file: HostFile) -> bool:
        return file.kind is Kind.MEMFD or (self.takes_target and file.kind is Kind.TMPFS)

    def identity(self, file: HostFile) -> Hashable:
        return file.identity

    def preserve(self, file: HostFile) -> MemfdState:
        """Preserves a memfd.

        Raises Errno(EOPNOTSUPP) for seals that the format does not know, Errno(EFBIG) beyond 2^32-1 pages,
        Errno(ENOMEM).
        """
        state = MemfdState(size=file.size(), seals=file.seals(), position=file.position())
        state.named = file.kind is Kind.TMPFS
        if state.seals & ~ALL_SEALS:
            raise Errno(errno.EOPNOTSUPP)
        if -(-state.size // PAGE) > UINT_MAX:
            raise Errno(errno.EFBIG)
        file.pin()
        return state

    def freeze(self, file: HostFile, state: MemfdState) -> None:
        state.position = file.position()

    def carry(self, file: HostFile, state: MemfdState) -> MemfdRecord:
        return MemfdRecord(file, state.size, state.seals, state.position, state.named)

    def retrieve(self, record: MemfdRecord) -> HostFile:
        assert record.kept is not None, "retrieved once, before finish"
        try:
            file = self._host.take_over(
                record.kept, size=record.size, seals=seals_on_return(record.seals), position=record.position
            )
        except Errno:
            record.drop()  # a failed attempt frees the pages (docs/hazards.md, H1)
            raise
        record.drop()  # they moved to the new file
        return file

    def retrieve_into(self, record: MemfdRecord, target: HostFile | None, *, held: bool) -> HostFile:
        """Raises Retryable for a target that does not fit, and where one is missing or too much."""
        if not record.named:
            if target is not None:
                raise Retryable(posted.ARGUMENT_OF_A_MEMFD)
            return self.retrieve(record)
        if target is None:
            raise Retryable(posted.ARGUMENT_MISSING)
        if not target.writable():
            raise Retryable(posted.TARGET_READ_ONLY)
        if held:
            raise Retryable(posted.TARGET_CLAIMED)
        if target.kind is not Kind.TMPFS or target.size():
            raise Retryable(posted.TARGET_UNFIT)
        assert record.kept is not None, "retrieved once, before finish"
        try:
            self._host.fill(target, record.kept, size=record.size)
        finally:
            record.drop()
        return target


def seals_on_return(seals: int) -> int:
    """Returns the seals of the new memfd.

    Its mode is 0777, and F_SEAL_EXEC on an executable file seals the contents too.
    """
    if seals & F_SEAL_EXEC:
        seals |= F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_FUTURE_WRITE
    return seals
