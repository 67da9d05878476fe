"""The device: registers, DMA, interrupts, what a reset leaves; as a program sees it through its cdev."""

from __future__ import annotations

import struct
from errno import EFAULT, EINVAL, EIO

import pytest

from luod.emulator.model.vfio.hardware import device as registers
from luod.uapi import vfio as uapi
from tests.emulator.model.vfio.machine import A, DeviceWorld, Vmm, power_on
from tests.emulator.model.world import number

IOVA = 0x40000000


def register(vmm: Vmm, device: int, offset: int, size: int = 4) -> int:
    data = vmm.pread(device, offset, size)
    assert isinstance(data, bytes)
    return int.from_bytes(data, "little")


def command(
    vmm: Vmm, device: int, what: int, *, source: int = 0, destination: int = 0, length: int = 0, vector: int = 0
) -> int:
    """Has the device execute a command. Returns its STATUS."""
    operands = struct.pack("<QQQ", source, destination, length)
    assert vmm.pwrite(device, registers.VECTOR, vector.to_bytes(4, "little")) == 4
    assert vmm.pwrite(device, registers.SOURCE, operands) == 24
    assert vmm.pwrite(device, registers.DOORBELL, what.to_bytes(4, "little")) == 4
    return register(vmm, device, registers.STATUS)


@pytest.fixture
def running(vmm: Vmm) -> tuple[int, int, int]:
    """Returns (device, iommufd, IOAS) with two pages of the process at IOVA, and DMA enabled."""
    device, iommu = vmm.opened()
    ioas = vmm.ioas(iommu)
    number(vmm.attach(device, ioas))
    assert vmm.map(iommu, ioas, vmm.ram(2), 8192, IOVA) == IOVA
    vmm.set_config(device, 4, 0x0006)
    return device, iommu, ioas


def test_after_open_its_registers_are_zero_but_for_its_identity(vmm: Vmm) -> None:
    device, _ = vmm.opened()
    assert vmm.pread(device, 0, 64) == b"LUOD" + bytes(60)


def test_d20_it_sums_over_dma_what_the_program_has_in_its_memory(vmm: Vmm, running: tuple[int, int, int]) -> None:
    device, _, _ = running
    vmm.write(0x100000, bytes(range(200)))
    assert command(vmm, device, 1, source=IOVA, destination=IOVA + 4096, length=200) == registers.STATUS_DONE
    assert vmm.read(0x101000, 8) == sum(range(200)).to_bytes(8, "little")
    assert register(vmm, device, registers.VALUE, 8) == sum(range(200))
    assert register(vmm, device, registers.COUNT) == 1
    assert register(vmm, device, registers.DOORBELL) == 0


def test_it_copies_and_fills_over_dma(vmm: Vmm, running: tuple[int, int, int]) -> None:
    device, _, _ = running
    vmm.write(0x100FF0, bytes(range(32)))
    assert command(vmm, device, 2, source=IOVA + 0xFF0, destination=IOVA, length=32) == registers.STATUS_DONE
    assert vmm.read(0x100000, 32) == bytes(range(32))
    vmm.pwrite(device, registers.VALUE, b"\x5a")
    assert command(vmm, device, 3, destination=IOVA + 8, length=4) == registers.STATUS_DONE
    assert vmm.read(0x100000, 16) == bytes(range(8)) + b"ZZZZ" + bytes(range(12, 16))


@pytest.mark.parametrize(("source", "length"), [(IOVA - 1, 8), (IOVA + 8190, 8), (0, 8), ((1 << 64) - 4, 8)], ids=hex)
def test_dma_that_is_not_mapped_is_a_fault(vmm: Vmm, running: tuple[int, int, int], source: int, length: int) -> None:
    device, _, _ = running
    assert command(vmm, device, 1, source=source, destination=IOVA, length=length) == registers.STATUS_DMA_FAULT


def test_dma_needs_bus_mastering_an_attached_page_table_and_a_mapping(vmm: Vmm, running: tuple[int, int, int]) -> None:
    device, iommu, ioas = running
    fill = {"destination": IOVA, "length": 4}
    assert command(vmm, device, 3, **fill) == registers.STATUS_DONE
    vmm.set_config(device, 4, 0x0002)
    assert command(vmm, device, 3, **fill) == registers.STATUS_DMA_FAULT
    vmm.set_config(device, 4, 0x0006)
    assert vmm.detach(device) == 0
    assert command(vmm, device, 3, **fill) == registers.STATUS_DMA_FAULT
    number(vmm.attach(device, ioas))
    assert command(vmm, device, 3, **fill) == registers.STATUS_DONE
    assert vmm.unmap(iommu, ioas, IOVA, 8192) == 8192
    assert command(vmm, device, 3, **fill) == registers.STATUS_DMA_FAULT


def test_what_is_mapped_to_be_read_cannot_be_written(vmm: Vmm, running: tuple[int, int, int]) -> None:
    device, iommu, ioas = running
    assert vmm.map(iommu, ioas, 0x100000, 4096, 0, flags=4) == 0
    assert command(vmm, device, 3, destination=0, length=4) == registers.STATUS_DMA_FAULT
    assert command(vmm, device, 2, source=0, destination=IOVA, length=4) == registers.STATUS_DONE
    assert vmm.map(iommu, ioas, 0x100000, 4096, 4096, flags=2) == 4096
    assert command(vmm, device, 2, source=4096, destination=IOVA, length=4) == registers.STATUS_DMA_FAULT


@pytest.mark.parametrize(("what", "length"), [(5, 0), (0x80000000, 0), (1, (16 << 20) + 1)])
def test_commands_that_do_not_exist_say_so(vmm: Vmm, running: tuple[int, int, int], what: int, length: int) -> None:
    device, _, _ = running
    assert command(vmm, device, what, source=IOVA, destination=IOVA, length=length) == registers.STATUS_BAD_COMMAND
    assert register(vmm, device, registers.COUNT) == 1


def test_it_counts_by_itself(vmm: Vmm, running: tuple[int, int, int]) -> None:
    device, _, _ = running
    for _ in range(2):
        assert vmm.pwrite(device, registers.COUNT, bytes(4)) == 4
        assert command(vmm, device, 4) == registers.STATUS_DONE
    assert register(vmm, device, registers.COUNT) == 2


def test_a_store_through_a_mapping_is_seen_when_the_device_is_polled(
    world: DeviceWorld, vmm: Vmm, running: tuple[int, int, int]
) -> None:
    device, _, _ = running
    assert not world.vfio.poll()
    assert vmm.mmap(device, 0, 4096) == 0
    mapping = world.bar(A)
    mapping.write(registers.SOURCE, struct.pack("<QQQQ", 0, IOVA, 3, 0x41))
    mapping.write(registers.DOORBELL, (3).to_bytes(4, "little"))
    assert vmm.read(0x100000, 3) == bytes(3)
    assert world.vfio.poll()
    assert vmm.read(0x100000, 4) == b"AAA\0"
    assert mapping.read(registers.DOORBELL, 4) == bytes(4)
    vmm.close(device)
    assert not world.vfio.poll()


def test_its_interrupt_comes_after_the_command(vmm: Vmm, running: tuple[int, int, int]) -> None:
    device, _, _ = running
    first, second = vmm.new_eventfd(), vmm.new_eventfd()
    assert vmm.msix(device, first, second) == 0
    assert command(vmm, device, 3, destination=IOVA, length=1, vector=2) == registers.STATUS_DONE
    assert (vmm.count(first), vmm.count(second)) == (0, 1)
    assert command(vmm, device, 4, vector=1) == registers.STATUS_DONE
    assert (vmm.count(first), vmm.count(second)) == (1, 0)
    assert command(vmm, device, 4, vector=4) == registers.STATUS_DONE
    assert (vmm.count(first), vmm.count(second)) == (0, 0)


def test_reset_clears_registers_and_leaves_configuration_space(vmm: Vmm, running: tuple[int, int, int]) -> None:
    device, _, _ = running
    vmm.pwrite(device, registers.SCRATCH, b"12345678")
    assert vmm.ioctl(device, uapi.VFIO_DEVICE_RESET) == 0
    assert vmm.pread(device, 0, 64) == b"LUOD" + bytes(60)
    assert vmm.config(device, 4) == 0x0006


def test_a_function_level_reset_through_configuration_space(vmm: Vmm, running: tuple[int, int, int]) -> None:
    device, _, _ = running
    vmm.pwrite(device, registers.SCRATCH, b"12345678")
    vmm.set_config(device, 0x68, 0x2810)
    assert register(vmm, device, registers.SCRATCH, 8) != 0
    vmm.set_config(device, 0x68, 0xA810)
    assert register(vmm, device, registers.SCRATCH, 8) == 0
    assert vmm.config(device, 0x68) == 0x2810


def test_configuration_space_says_what_was_described() -> None:
    world = power_on("0000:05:00.0,vendor=0x8086,device=0x10d3,class=0x020000,msix=8,bars=32K+1M")
    vmm = Vmm(world)
    vmm.take("0000:05:00.0")
    device, _ = vmm.opened("0000:05:00.0")
    assert vmm.config(device, 0) == 0x8086
    assert vmm.config(device, 2) == 0x10D3
    assert vmm.config(device, 9, 1) == 0
    assert vmm.config(device, 10) == 0x0200
    # Capabilities: power management, MSI-X, PCI Express.
    pointer, found = vmm.config(device, 0x34, 1), []
    while pointer:
        found.append(vmm.config(device, pointer, 1))
        pointer = vmm.config(device, pointer + 1, 1)
    assert found == [0x01, 0x11, 0x10]
    assert vmm.config(device, 0x52) & 0x7FF == 7
    for bar, size in ((0, 0x8000), (1, 0x100000)):
        before = vmm.config(device, 0x10 + 4 * bar, 4)
        assert before % size == 0
        vmm.set_config(device, 0x10 + 4 * bar, 0xFFFFFFFF, 4)
        assert vmm.config(device, 0x10 + 4 * bar, 4) == (1 << 32) - size
        vmm.set_config(device, 0x10 + 4 * bar, before, 4)
    assert vmm.config(device, 0x18, 4) == 0
    world.switch_off()


def test_reads_and_writes_end_with_their_region(vmm: Vmm) -> None:
    device, _ = vmm.opened()
    assert vmm.pread(device, 0x3FF8, 64) == bytes(8)
    assert vmm.pwrite(device, 0x1FFC, b"01234567") == 8
    assert vmm.pwrite(device, 0x3FFC, b"01234567") == 4
    assert vmm.pread(device, 0x4000, 4) == -EINVAL
    assert vmm.pread(device, 1 << 40, 4) == -EINVAL
    assert vmm.pread(device, 6 << 40, 4) == -EINVAL
    assert vmm.pread(device, 9 << 40, 4) == -EINVAL
    assert vmm.pread(device, 7 << 40 | 4092, 4) == bytes(4)
    assert vmm.pread(device, 7 << 40 | 4092, 8) == -EFAULT
    assert vmm.pread(device, 0x4000, 0) == b""
    assert vmm.pwrite(device, 0x4000, b"") == 0


def test_the_msix_table_cannot_be_reached_by_read_and_write(vmm: Vmm) -> None:
    device, _ = vmm.opened()
    assert vmm.pread(device, 0x1FF8, 16) == bytes(8) + b"\xff" * 8
    assert vmm.pread(device, 0x2038, 16) == b"\xff" * 8 + bytes(8)
    assert vmm.pwrite(device, 0x1FFC, b"a" * 80) == 80
    assert vmm.pread(device, 0x1FFC, 80) == b"a" * 4 + b"\xff" * 64 + b"a" * 12


def test_without_memory_decoding_the_bars_do_not_answer(vmm: Vmm) -> None:
    device, _ = vmm.opened()
    vmm.set_config(device, 4, 0)
    assert vmm.pread(device, 0, 4) == -EIO
    assert vmm.pwrite(device, 0, b"0") == -EIO
    vmm.set_config(device, 4, 2)
    assert vmm.pread(device, 0, 4) == b"LUOD"
    vmm.set_config(device, 0x44, 3)
    assert vmm.pread(device, 0, 4) == -EIO
    vmm.set_config(device, 0x44, 0)
    assert vmm.pread(device, 0, 4) == b"LUOD"


def test_the_last_close_resets_it_and_ends_its_dma(world: DeviceWorld, vmm: Vmm, running: tuple[int, int, int]) -> None:
    device, iommu, _ = running
    vmm.pwrite(device, registers.SCRATCH, b"12345678")
    vmm.close(device)
    assert world.bar(A).read(0, 64) == b"LUOD" + bytes(60)
    vmm.close(iommu)
    assert world.pinned == []
    device, _ = vmm.opened()
    assert vmm.config(device, 4) == 0x0002


def test_configuration_space_is_as_new_after_the_last_close(vmm: Vmm) -> None:
    device, iommu = vmm.opened()
    layout = ((0x04, 2), (0x10, 4), (0x44, 2), (0x50, 4), (0x60, 4), (0x64, 4), (0x68, 2))
    before = [vmm.config(device, offset, size) for offset, size in layout]
    for offset, size in layout:
        vmm.set_config(device, offset, 0x6FFF, size)
    assert [vmm.config(device, offset, size) for offset, size in layout] != before
    vmm.close(device)
    device = number(vmm.open_cdev(A))
    number(vmm.bind(device, iommu))
    assert [vmm.config(device, offset, size) for offset, size in layout] == before
    assert before[5] == 0x10008000, "payloads, and that it can be reset"


def test_other_bars_are_memory_that_a_reset_leaves_alone() -> None:
    world = power_on("0000:01:00.0,bars=16K+64K")
    vmm = Vmm(world)
    vmm.take(A)
    device, _ = vmm.opened()
    assert vmm.pwrite(device, 1 << 40 | 0xFFFE, b"xyz") == 2
    assert vmm.ioctl(device, uapi.VFIO_DEVICE_RESET) == 0
    assert vmm.pread(device, 1 << 40 | 0xFFFC, 9) == b"\0\0xy"
    world.switch_off()
