"""D21, the first of the document's future work: page tables of an iommufd are carried over the kexec.

It is an option of the machine, since neither table of rules has it (docs/kernel.md, 12). The first test follows
upstream's own selftest.
"""

from __future__ import annotations

from collections.abc import Iterator
from errno import EADDRINUSE, EBUSY, EINVAL, ENOENT, ENOTTY, EOPNOTSUPP, EPERM

import pytest

from luod.uapi import iommufd as uapi
from luod.uapi.memfd import F_SEAL_GROW, F_SEAL_SEAL, F_SEAL_SHRINK
from tests.emulator.model.vfio.machine import RAM, A, DeviceWorld, Vmm, power_on
from tests.emulator.model.vfio.test_preserve import session_for
from tests.emulator.model.vfio.test_retrieve import incoming
from tests.emulator.model.world import number

SEALS = F_SEAL_SEAL | F_SEAL_GROW | F_SEAL_SHRINK
IOVA = 4 << 30
SIZE = 1 << 20
IOMMUFD, CDEV, HWPT, MEMFD = 0x123456, 0x654321, 0x789012, 0x890123


@pytest.fixture
def world(rules: str) -> Iterator[DeviceWorld]:
    machine = power_on(rules=rules, iommufd_preservation=True)
    yield machine
    machine.switch_off()


class Stage:
    """A device that does DMA through a page table of its own, onto a sealed memfd."""

    def __init__(self, vmm: Vmm, seals: int = SEALS) -> None:
        self.vmm = vmm
        self.memfd = vmm.memfd(bytes(SIZE), seals)
        self.cdev, self.iommu = vmm.opened()
        self.ioas = vmm.ioas(self.iommu)
        self.table = number(vmm.hwpt(self.iommu, 1, self.ioas))
        number(vmm.attach(self.cdev, self.table))
        assert vmm.map_file(self.iommu, self.ioas, self.memfd, 0, SIZE, IOVA) == 0

    def mark(self, token: int = HWPT, table: int = 0) -> object:
        argument = uapi.HWPT_LIVEUPDATE_MARK_PRESERVE.pack(16, table or self.table, token)
        return self.vmm.call(self.iommu, uapi.IOMMU_HWPT_LIVEUPDATE_MARK_PRESERVE, argument)

    def preserve(self, session: int) -> list[object]:
        """Preserves memfd, iommufd and cdev, in that order."""
        tokens = ((self.memfd, MEMFD), (self.iommu, IOMMUFD), (self.cdev, CDEV))
        return [self.vmm.preserve(session, fd, token) for fd, token in tokens]


@pytest.fixture
def stage(vmm: Vmm) -> Stage:
    found = Stage(vmm)
    assert found.mark() == 0
    return found


def test_d21_the_self_test_of_the_series(world: DeviceWorld, vmm: Vmm, stage: Stage) -> None:
    session = session_for(vmm)
    assert vmm.preserve(session, stage.cdev, CDEV) == -ENOENT
    assert vmm.preserve(session, stage.iommu, IOMMUFD) == -ENOENT
    assert stage.preserve(session) == [0, 0, 0]
    vmm.close(session)
    session = session_for(vmm)
    assert stage.preserve(session) == [0, 0, 0]

    following = world.jump(vmm)
    following.take()
    session = incoming(following)
    cdev = number(following.retrieve(session, CDEV))
    assert following.retrieve(session, IOMMUFD) == -EOPNOTSUPP
    assert following.retrieve(session, IOMMUFD) == -EOPNOTSUPP
    assert following.bind(cdev, number(following.open("/dev/iommu"))) == -EPERM
    assert number(following.retrieve(session, MEMFD))
    assert following.finish(session) == -EBUSY


def test_d21_the_restored_page_table_owns_the_devices_dma(world: DeviceWorld, vmm: Vmm, stage: Stage) -> None:
    assert stage.preserve(session_for(vmm)) == [0, 0, 0]
    following = world.jump(vmm)
    following.take()
    group, container = number(following.open("/dev/vfio/1")), number(following.open("/dev/vfio/vfio"))
    assert following.set_container(group, container) == -EPERM


def test_d21_a_driver_of_the_host_cannot_take_the_device(rules: str) -> None:
    world = power_on(f"{A},driver=nvme", rules=rules, iommufd_preservation=True)
    vmm = Vmm(world)
    vmm.take(A)
    stage = Stage(vmm)
    assert stage.mark() == 0
    assert stage.preserve(session_for(vmm)) == [0, 0, 0]
    following = world.jump(vmm)
    assert not following.exists(f"bus/pci/devices/{A}/driver")
    assert following.echo(A, "bus/pci/drivers/nvme/bind") == -EPERM
    world.switch_off()


def test_d21_marks(vmm: Vmm, stage: Stage) -> None:
    other = number(vmm.hwpt(stage.iommu, 1, stage.ioas))
    assert stage.mark(table=99) == -ENOENT
    assert stage.mark(table=stage.ioas) == -ENOENT
    assert stage.mark(HWPT, other) == -EADDRINUSE
    assert stage.mark(HWPT + 1, other) == 0
    assert stage.mark(HWPT) == 0
    assert vmm.detach(stage.cdev) == 0
    for table in (stage.table, other):
        assert vmm.destroy(stage.iommu, table) == -EBUSY
    # Another iommufd has tokens of its own.
    device, iommu = vmm.opened("0000:02:00.0")
    table = number(vmm.hwpt(iommu, 1, vmm.ioas(iommu)))
    argument = uapi.HWPT_LIVEUPDATE_MARK_PRESERVE.pack(16, table, HWPT)
    assert vmm.call(iommu, uapi.IOMMU_HWPT_LIVEUPDATE_MARK_PRESERVE, argument) == 0
    vmm.close(device)


def test_d21_an_attached_page_table_must_be_marked(vmm: Vmm) -> None:
    stage = Stage(vmm)
    session = session_for(vmm)
    assert stage.preserve(session) == [0, 0, -EINVAL]
    assert vmm.detach(stage.cdev) == 0
    assert vmm.preserve(session, stage.cdev, CDEV) == 0, "nothing is attached"


def test_d21_so_one_made_automatically_cannot_be_preserved(vmm: Vmm) -> None:
    cdev, iommu = vmm.opened()
    number(vmm.attach(cdev, vmm.ioas(iommu)))
    session = session_for(vmm)
    assert vmm.preserve(session, iommu, 1) == 0
    assert vmm.preserve(session, cdev, 2) == -EINVAL


@pytest.mark.parametrize("missing", [F_SEAL_SEAL, F_SEAL_GROW, F_SEAL_SHRINK])
def test_d21_the_memory_must_have_been_sealed_when_it_was_mapped(vmm: Vmm, missing: int) -> None:
    stage = Stage(vmm, SEALS & ~missing)
    assert stage.mark() == 0
    vmm.inode(stage.memfd).seals = SEALS
    session = session_for(vmm)
    assert vmm.preserve(session, stage.memfd, MEMFD) == 0
    assert vmm.preserve(session, stage.iommu, IOMMUFD) == -EINVAL


def test_d21_memory_of_a_process_cannot_be_carried(vmm: Vmm, stage: Stage) -> None:
    assert vmm.map(stage.iommu, stage.ioas, vmm.ram(1), 4096, 0) == 0
    session = session_for(vmm)
    assert vmm.preserve(session, stage.memfd, MEMFD) == 0
    assert vmm.preserve(session, stage.iommu, IOMMUFD) == -EINVAL


def test_d21_everything_must_be_in_one_session(vmm: Vmm, stage: Stage) -> None:
    session, other = session_for(vmm), session_for(vmm, b"other")
    assert vmm.preserve(session, stage.memfd, MEMFD) == 0
    assert vmm.preserve(other, stage.iommu, IOMMUFD) == -ENOENT
    assert vmm.preserve(session, stage.iommu, IOMMUFD) == 0
    assert vmm.preserve(other, stage.cdev, CDEV) == -ENOENT
    assert vmm.preserve(session, stage.cdev, CDEV) == 0


def test_d21_a_preserved_address_space_cannot_change(vmm: Vmm, stage: Stage) -> None:
    session = session_for(vmm)
    assert stage.preserve(session) == [0, 0, 0]
    assert vmm.map(stage.iommu, stage.ioas, vmm.ram(1), 4096, 0) == -EBUSY
    assert vmm.map_file(stage.iommu, stage.ioas, stage.memfd, 0, 4096, 0) == -EBUSY
    assert vmm.unmap(stage.iommu, stage.ioas, IOVA, SIZE) == -EBUSY
    assert vmm.unmap(stage.iommu, stage.ioas, 0, (1 << 64) - 1) == -EBUSY
    free = vmm.ioas(stage.iommu)
    assert vmm.map(stage.iommu, free, RAM, 4096, 0) == 0
    vmm.close(session)
    assert vmm.unmap(stage.iommu, stage.ioas, IOVA, SIZE) == SIZE


def test_d21_dma_goes_on_until_the_jump(vmm: Vmm, stage: Stage) -> None:
    assert stage.preserve(session_for(vmm)) == [0, 0, 0]
    vmm.set_config(stage.cdev, 4, 6)
    vmm.pwrite(stage.cdev, 0x18, IOVA.to_bytes(8, "little") + (4).to_bytes(8, "little") + b"\x42")
    vmm.pwrite(stage.cdev, 0x08, b"\3")
    assert vmm.inode(stage.memfd).data[:5] == b"BBBB\0"


def test_d21_without_the_switch_there_is_none_of_it(rules: str) -> None:
    world = power_on(rules=rules)
    vmm = Vmm(world)
    vmm.take()
    stage = Stage(vmm)
    assert stage.mark() == -ENOTTY
    assert stage.preserve(session_for(vmm)) == [0, -ENOENT, 0]
    world.switch_off()
