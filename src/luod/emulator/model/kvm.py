"""The handlers of KVM's VM and guest_memfd files, as posted, with memfds that stand in for the files.

A memfd named `kvm-vm` or `kvm-vm:NAME` stands in for the file of a VM, one named `kvm-gmem` or `kvm-gmem:NAME` for a
guest_memfd of that VM. So the rules of order and lifetime can be learned without KVM. The source is the series "KVM:
live update of VM and guest_memfd" (version 4, 28 July 2026) and its documentation in development. Names of formats are
of the series; errnos marked "inferred" were not seen.
"""

from __future__ import annotations

import errno
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from typing import Final

from luod.emulator.model.handler import Beside, FileHandler
from luod.emulator.model.ports import Errno, Host, HostFile, Kind
from luod.emulator.model.profile import KvmRules
from luod.uapi.memfd import F_SEAL_SEAL

VM: Final = b"kvm-vm"
GUEST_MEMORY: Final = b"kvm-gmem"

VM_FORMAT: Final = "kvm_vm_luo_v1"
GUEST_MEMORY_FORMAT: Final = "guest_memfd_luo_v1"
FORMATS: Final = (VM_FORMAT, GUEST_MEMORY_FORMAT)

VM_MISSING: Final = errno.ENOENT
"""The VM of a guest_memfd is not preserved in its session. Of version 4 at PRESERVE_FD; inferred at the freeze."""
EMPTY: Final = errno.EINVAL
"""PRESERVE_FD of a guest_memfd of size 0."""


@dataclass
class Kept:
    """A file between two kernels: its memory, until it is passed on or freed, and its name."""

    file: HostFile | None
    name: bytes
    size: int

    def drop(self) -> None:
        file, self.file = self.file, None
        if file is not None:
            file.close()


class _StandIn(FileHandler[int, Kept]):
    """Handles memfds of one name. The state is the size."""

    stands_for: bytes

    def __init__(self, host: Host) -> None:
        self._host = host

    def can_preserve(self, file: HostFile) -> bool:
        return file.kind is Kind.MEMFD and file.name.partition(b":")[0] == self.stands_for

    def identity(self, file: HostFile) -> Hashable:
        return file.identity

    def carry(self, file: HostFile, state: int) -> Kept:
        return Kept(file, file.name, state)

    def retrieve(self, record: Kept) -> HostFile:
        assert record.file is not None, "retrieved once, before finish"
        try:
            return self._host.take_over(record.file, size=record.size, seals=F_SEAL_SEAL, position=0, name=record.name)
        finally:
            record.drop()


class VmHandler(_StandIn):
    """Carries that there is a VM. Its memory slots, processors and devices are made again by the VMM."""

    compatible = VM_FORMAT
    stands_for = VM

    def preserve(self, file: HostFile) -> int:
        return 0


class GuestMemoryHandler(_StandIn):
    """Carries the contents. Its size cannot change while it is preserved."""

    compatible = GUEST_MEMORY_FORMAT
    stands_for = GUEST_MEMORY
    freezes = True

    def __init__(self, host: Host, rules: KvmRules) -> None:
        super().__init__(host)
        self._rules = rules

    def preserve(self, file: HostFile) -> int:
        """Raises Errno: EINVAL for an empty file, ENOMEM."""
        size = file.size()
        if not size:
            raise Errno(EMPTY)
        file.pin()
        return size

    def preserve_beside(self, file: HostFile, others: Iterable[Beside]) -> int:
        """Raises the errnos of `preserve`, and ENOENT under version 4 without the VM."""
        if self._rules is KvmRules.V4:
            _need_vm(file, others)
        return self.preserve(file)

    def freeze_beside(self, file: HostFile, state: int, others: Iterable[Beside]) -> None:
        _need_vm(file, others)


def _need_vm(guest_memory: HostFile, others: Iterable[Beside]) -> None:
    """Raises Errno(ENOENT) when the VM of a guest_memfd is not among `others`."""
    wanted = VM + guest_memory.name.removeprefix(GUEST_MEMORY)
    if not any(other.file.kind is Kind.MEMFD and other.file.name == wanted for other in others):
        raise Errno(VM_MISSING)
