"""The handler of memfds, format `memfd-v2`: the files it accepts, the state it keeps, the file it returns.

It follows mm/memfd_luo.c of Linux 7.3; its answers are in docs/kernel.md, 5 and 7.
"""

from __future__ import annotations

import errno
from collections.abc import Hashable
from dataclasses import dataclass

from luod.emulator.model.handler import FileHandler
from luod.emulator.model.ports import PAGE, Errno, Host, HostFile, Kind
from luod.uapi.memfd import F_SEAL_EXEC, F_SEAL_FUTURE_WRITE, F_SEAL_GROW, F_SEAL_SEAL, F_SEAL_SHRINK, F_SEAL_WRITE

ALL_SEALS = F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_FUTURE_WRITE | F_SEAL_EXEC

UINT_MAX = 2**32 - 1


@dataclass
class MemfdState:
    """The state at PRESERVE; freeze updates `position`. Bytes and F_SEAL_* bits."""

    size: int
    seals: int
    position: int


@dataclass
class MemfdRecord:
    """The memory of one memfd after a kexec. `kept` is owned; None once the memory was passed on or freed."""

    kept: HostFile | None
    size: int
    seals: int
    position: int

    def drop(self) -> None:
        kept, self.kept = self.kept, None
        if kept is not None:
            kept.close()


class MemfdHandler(FileHandler[MemfdState, MemfdRecord]):
    """Handles any shmem file without a name. `host` makes the new memfd of a retrieve."""

    compatible = "memfd-v2"
    freezes = True

    def __init__(self, host: Host) -> None:
        self._host = host

    def can_preserve(self, file: HostFile) -> bool:
        return file.kind is Kind.MEMFD

    def identity(self, file: HostFile) -> Hashable:
        return file.identity

    def preserve(self, file: HostFile) -> MemfdState:
        """Preserves a memfd.

        Raises Errno(EOPNOTSUPP) for seals that the format does not know, Errno(EFBIG) beyond 2^32-1 pages,
        Errno(ENOMEM).
        """
        state = MemfdState(size=file.size(), seals=file.seals(), position=file.position())
        if state.seals & ~ALL_SEALS:
            raise Errno(errno.EOPNOTSUPP)
        if -(-state.size // PAGE) > UINT_MAX:
            raise Errno(errno.EFBIG)
        file.pin()
        return state

    def freeze(self, file: HostFile, state: MemfdState) -> None:
        state.position = file.position()

    def carry(self, file: HostFile, state: MemfdState) -> MemfdRecord:
        return MemfdRecord(file, state.size, state.seals, state.position)

    def retrieve(self, record: MemfdRecord) -> HostFile:
        assert record.kept is not None, "retrieved once, before finish"
        try:
            return self._host.take_over(
                record.kept, size=record.size, seals=seals_on_return(record.seals), position=record.position
            )
        finally:
            # The pages moved to the new file, or a failed attempt freed them (docs/hazards.md, H1).
            record.drop()


def seals_on_return(seals: int) -> int:
    """Returns the seals of the new memfd.

    Its mode is 0777, and F_SEAL_EXEC on an executable file seals the contents too.
    """
    if seals & F_SEAL_EXEC:
        seals |= F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_FUTURE_WRITE
    return seals
