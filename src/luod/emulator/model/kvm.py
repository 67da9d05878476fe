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

from luod.emulator.model.handler import Beside, FileHandler, State
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


class Vm:
    """A VM over all kernels that carry its file. Compared by identity."""


@dataclass
class GuestMemory:
    """The size of a preserved guest_memfd in bytes, and its VM once it is frozen."""

    size: int
    vm: Vm | None = None


@dataclass
class Kept:
    """A file between two kernels: its memory, until it is passed on or freed, its name, and its VM."""

    file: HostFile | None
    name: bytes
    size: int
    vm: Vm | None

    def drop(self) -> None:
        file, self.file = self.file, None
        if file is not None:
            file.close()


class Bonds:
    """The retrieved files of one boot, by identity, and the VM that each is of or belongs to.

    A guest_memfd that a program made belongs to the VM of its name. A retrieved one belongs to the VM that came
    with it; another VM of that name does not replace that one.
    """

    def __init__(self) -> None:
        self.of: dict[Hashable, Vm] = {}

    def find(self, guest_memory: HostFile, others: Iterable[Beside]) -> Vm:
        """Returns the VM of a guest_memfd. Raises Errno(ENOENT) when it is not among `others`."""
        own = self.of.get(guest_memory.identity)
        wanted = VM + guest_memory.name.removeprefix(GUEST_MEMORY)
        for other in others:
            vm = other.state
            if isinstance(vm, Vm) and (vm is own if own is not None else other.file.name == wanted):
                return vm
        raise Errno(VM_MISSING)


class _StandIn(FileHandler[State, Kept]):
    """Handles memfds of one name."""

    stands_for: bytes

    def __init__(self, host: Host, bonds: Bonds) -> None:
        self._host = host
        self._bonds = bonds

    def can_preserve(self, file: HostFile) -> bool:
        return file.kind is Kind.MEMFD and file.name.partition(b":")[0] == self.stands_for

    def identity(self, file: HostFile) -> Hashable:
        return file.identity

    def retrieve(self, record: Kept) -> HostFile:
        assert record.file is not None, "retrieved once, before finish"
        try:
            file = self._host.take_over(record.file, size=record.size, seals=F_SEAL_SEAL, position=0, name=record.name)
        except Errno:
            record.drop()
            raise
        record.drop()
        if record.vm is not None:
            self._bonds.of[file.identity] = record.vm
        return file


class VmHandler(_StandIn[Vm]):
    """Carries that there is a VM. Its memory slots, processors and devices are made again by the VMM."""

    compatible = VM_FORMAT
    stands_for = VM

    def preserve(self, file: HostFile) -> Vm:
        return self._bonds.of.get(file.identity) or Vm()

    def carry(self, file: HostFile, state: Vm) -> Kept:
        return Kept(file, file.name, 0, state)


class GuestMemoryHandler(_StandIn[GuestMemory]):
    """Carries the contents, and the VM that they belong to. Its size cannot change while it is preserved.

    A session that is finished without its VM retrieved has lost that VM: the guest_memfd cannot be preserved again.
    """

    compatible = GUEST_MEMORY_FORMAT
    stands_for = GUEST_MEMORY
    freezes = True

    def __init__(self, host: Host, bonds: Bonds, rules: KvmRules) -> None:
        super().__init__(host, bonds)
        self._rules = rules

    def preserve(self, file: HostFile) -> GuestMemory:
        """Raises Errno: EINVAL for an empty file, ENOMEM."""
        size = file.size()
        if not size:
            raise Errno(EMPTY)
        file.pin()
        return GuestMemory(size)

    def preserve_beside(self, file: HostFile, others: Iterable[Beside]) -> GuestMemory:
        """Raises the errnos of `preserve`, and ENOENT under version 4 without the VM."""
        if self._rules is KvmRules.V4:
            self._bonds.find(file, others)
        return self.preserve(file)

    def freeze_beside(self, file: HostFile, state: GuestMemory, others: Iterable[Beside]) -> None:
        state.vm = self._bonds.find(file, others)

    def carry(self, file: HostFile, state: GuestMemory) -> Kept:
        return Kept(file, file.name, state.size, state.vm)


def handlers(host: Host, rules: KvmRules) -> tuple[VmHandler, GuestMemoryHandler]:
    """Returns the handlers of one boot."""
    bonds = Bonds()
    return VmHandler(host, bonds), GuestMemoryHandler(host, bonds, rules)
