"""/dev/iommu: address spaces, page tables and options; iommufd's checks and errnos."""

from __future__ import annotations

import time
import tracemalloc
from errno import (
    E2BIG,
    EADDRINUSE,
    EBADF,
    EBUSY,
    EEXIST,
    EFAULT,
    EINVAL,
    EMSGSIZE,
    ENODEV,
    ENOENT,
    ENOMEM,
    ENOTTY,
    EOPNOTSUPP,
    EOVERFLOW,
    EPERM,
)

import pytest

from luod.emulator.model.vfio.iommu.iommufd import CAP_SYS_RESOURCE
from luod.uapi import iommufd as uapi
from luod.uapi import vfio
from tests.emulator.model.vfio.machine import RAM, A, DeviceWorld, Vmm
from tests.emulator.model.world import READ_ONLY, SCRATCH, number

END = SCRATCH + 2 * 4096
BIG = (1 << 64) - 1
ANYWHERE = None


def ranges(vmm: Vmm, iommu: int, ioas: int, room: int = 8) -> list[tuple[int, int]] | int:
    """Returns the ranges of IOVA_RANGES, or its errno."""
    argument = uapi.IOAS_IOVA_RANGES.pack(32, ioas, room, 0, SCRATCH + 512, 0)
    result = vmm.call(iommu, uapi.IOMMU_IOAS_IOVA_RANGES, argument)
    assert isinstance(result, int)
    count = uapi.IOAS_IOVA_RANGES.unpack(vmm.read(SCRATCH, 32))[2]
    if result:
        return result
    return list(uapi.IOVA_RANGE.iter_unpack(vmm.read(SCRATCH + 512, 16 * count)))


def allow(vmm: Vmm, iommu: int, ioas: int, *allowed: tuple[int, int]) -> object:
    vmm.poke(SCRATCH + 512, b"".join(uapi.IOVA_RANGE.pack(*each) for each in allowed))
    argument = uapi.IOAS_ALLOW_IOVAS.pack(24, ioas, len(allowed), 0, SCRATCH + 512)
    return vmm.call(iommu, uapi.IOMMU_IOAS_ALLOW_IOVAS, argument)


def option(vmm: Vmm, iommu: int, what: int, operation: int, thing: int = 0, value: int = 0) -> int:
    """Returns val64 after IOMMU_OPTION, or its errno."""
    result = vmm.call(iommu, uapi.IOMMU_OPTION, uapi.OPTION.pack(24, what, operation, 0, thing, value))
    assert isinstance(result, int)
    return result if result else int(uapi.OPTION.unpack(vmm.read(SCRATCH, 24))[5])


@pytest.mark.parametrize(
    ("command", "expected"),
    [(0x3B96, -ENOTTY), (0x3B40, -ENOTTY), (0x4081, -ENOTTY), (0x1234, -ENOTTY)],
)
def test_commands_it_has_not(vmm: Vmm, iommu: int, command: int, expected: int) -> None:
    assert vmm.call(iommu, command, bytes(64)) == expected


def test_an_unreadable_size_comes_before_the_command(vmm: Vmm, iommu: int) -> None:
    assert vmm.ioctl(iommu, 0x3B95, 0) == -EFAULT
    assert vmm.ioctl(iommu, uapi.IOMMU_IOAS_ALLOC, END - 2) == -EFAULT


def test_a_structure_is_read_by_the_size_that_it_says(vmm: Vmm, iommu: int) -> None:
    alloc = uapi.IOMMU_IOAS_ALLOC
    assert vmm.call(iommu, alloc, uapi.IOAS_ALLOC.pack(11, 0, 0)) == -EINVAL
    assert vmm.call(iommu, alloc, uapi.IOAS_ALLOC.pack(16, 0, 0) + b"\0\0\0\1") == -E2BIG
    assert vmm.call(iommu, alloc, uapi.IOAS_ALLOC.pack(16, 0, 0) + bytes(4)) == 0
    assert vmm.call(iommu, alloc, uapi.IOAS_ALLOC.pack(12, 1, 0)) == -EOPNOTSUPP
    assert vmm.call(iommu, alloc, uapi.IOAS_ALLOC.pack(12, 0, 0), READ_ONLY) == -EFAULT
    assert vmm.ioas(iommu) == 2, "what could not be answered is not there"


def test_numbers_are_given_again(vmm: Vmm, iommu: int) -> None:
    assert [vmm.ioas(iommu) for _ in range(3)] == [1, 2, 3]
    assert vmm.destroy(iommu, 2) == 0
    assert vmm.destroy(iommu, 2) == -ENOENT
    assert vmm.ioas(iommu) == 2


def test_what_a_map_refuses_and_in_which_order(vmm: Vmm, iommu: int, ioas: int) -> None:
    assert vmm.map(iommu, ioas, RAM, 4096, 0, flags=8 | 6) == -EOPNOTSUPP
    assert vmm.call(iommu, uapi.IOMMU_IOAS_MAP, uapi.IOAS_MAP.pack(40, 7, ioas, 1, RAM, 4096, 0)) == -EOPNOTSUPP
    assert vmm.map(iommu, 99, RAM, 4096, BIG) == -EOVERFLOW
    assert vmm.map(iommu, 99, RAM, BIG, 0) == -EOVERFLOW
    assert vmm.map(iommu, 99, RAM, 4096, 0, flags=0) == -EINVAL
    assert vmm.map(iommu, 99, RAM, 4096, 0) == -ENOENT
    assert vmm.map(iommu, ioas, RAM, 0, 0) == -EINVAL
    assert vmm.map(iommu, ioas, BIG - 4096, 8192, 0) == -EOVERFLOW
    assert vmm.map(iommu, ioas, RAM, 8192, BIG - 4095) == -EOVERFLOW
    assert vmm.map(iommu, ioas, 0, BIG - 4095, 8192) == -EINVAL, "its last page would end after the last address"
    assert vmm.map(iommu, ioas, READ_ONLY, 4096, 0, flags=4) == 0
    assert vmm.map(iommu, ioas, RAM, 4096, 0) == -EEXIST
    assert vmm.map(iommu, ioas, RAM, 8192, 1 << 63) == 1 << 63
    assert vmm.map(iommu, ioas, RAM, 4096, BIG - 4095) == BIG - 4095
    assert vmm.unmap(iommu, ioas, BIG - 4095, 4096) == 4096


@pytest.mark.parametrize(("address", "flags"), [(RAM + 15 * 4096, 7), (READ_ONLY, 7), (RAM + 15 * 4096, 5)])
def test_memory_is_looked_at_once_there_is_a_page_table(
    world: DeviceWorld, vmm: Vmm, iommu: int, ioas: int, address: int, flags: int
) -> None:
    device = number(vmm.bind(number(vmm.open_cdev(A)), iommu))
    assert vmm.map(iommu, ioas, address, 8192, 0, flags=flags) == 0
    assert vmm.hwpt(iommu, device, ioas) == -EFAULT
    assert vmm.unmap(iommu, ioas, 0, BIG) == 8192
    assert number(vmm.hwpt(iommu, device, ioas))
    assert vmm.map(iommu, ioas, address, 8192, 0, flags=flags) == -EFAULT
    assert world.pinned == []


def test_memory_that_begins_inside_a_page(world: DeviceWorld, vmm: Vmm, iommu: int, ioas: int) -> None:
    huge, write = 1, 0
    device = number(vmm.bind(number(vmm.open_cdev(A)), iommu))
    assert vmm.map(iommu, ioas, RAM + 2048, 4096, 0) == 0
    assert vmm.hwpt(iommu, device, ioas) == -EADDRINUSE
    assert option(vmm, iommu, huge, write, thing=ioas, value=0) == -EADDRINUSE
    assert option(vmm, iommu, huge, 1, thing=ioas) == 1
    assert vmm.unmap(iommu, ioas, 0, BIG) == 4096
    assert option(vmm, iommu, huge, write, thing=ioas, value=0) == 0
    assert vmm.map(iommu, ioas, RAM + 2048, 4096, 0) == -EINVAL
    assert option(vmm, iommu, huge, write, thing=ioas, value=1) == 1
    assert number(vmm.hwpt(iommu, device, ioas))
    assert vmm.map(iommu, ioas, RAM + 2048, 4096, 0) == -EINVAL
    assert vmm.map_file(iommu, ioas, vmm.memfd(bytes(8192)), 512, 4096, 0) == -EINVAL
    assert world.pinned == []


def test_a_copy_of_memory_that_begins_inside_a_page(vmm: Vmm, iommu: int, ioas: int, table: int) -> None:
    other = vmm.ioas(iommu)
    assert vmm.map(iommu, other, RAM + 2048, 4096, 0) == 0
    argument = uapi.IOAS_COPY.pack(40, 7, ioas, other, 4096, 0, 0)
    assert vmm.call(iommu, uapi.IOMMU_IOAS_COPY, argument) == -EINVAL
    assert vmm.unmap(iommu, ioas, 0, BIG) == 0


def test_anywhere_is_the_first_aligned_hole(vmm: Vmm, iommu: int, ioas: int) -> None:
    assert vmm.map(iommu, ioas, RAM, 4096, ANYWHERE) == 4096
    assert vmm.map(iommu, ioas, RAM, 8192, ANYWHERE) == 8192
    assert vmm.map(iommu, ioas, RAM, 16384, ANYWHERE) == 16384
    assert vmm.map(iommu, ioas, RAM + 4096, 16384, ANYWHERE) == 32768
    assert vmm.unmap(iommu, ioas, 8192, 8192) == 8192
    assert vmm.map(iommu, ioas, RAM, 4096, ANYWHERE) == 8192
    assert vmm.map(iommu, ioas, RAM + 1, 4096, ANYWHERE) == 49153


def test_anywhere_is_not_the_last_byte_of_a_hole(vmm: Vmm, iommu: int, ioas: int) -> None:
    assert vmm.map(iommu, ioas, RAM, 16384, 8192) == 8192
    assert vmm.map(iommu, ioas, RAM + 4095, 1, ANYWHERE) == 0x6FFF


def test_anywhere_is_never_in_the_first_page(vmm: Vmm, iommu: int, ioas: int) -> None:
    assert allow(vmm, iommu, ioas, (0, 0x11FFF)) == 0
    assert vmm.map(iommu, ioas, RAM, 4096, ANYWHERE) == 4096


def test_neighbouring_allowed_ranges_are_one(vmm: Vmm, iommu: int, ioas: int) -> None:
    assert allow(vmm, iommu, ioas, (0x10000, 0x10FFF), (0x11000, 0x11FFF)) == 0
    assert vmm.map(iommu, ioas, RAM, 8192, ANYWHERE) == 0x10000


def test_an_address_anywhere_is_an_allowed_one(vmm: Vmm, iommu: int, ioas: int) -> None:
    assert allow(vmm, iommu, 99, (0, 1)) == -ENOENT
    assert allow(vmm, iommu, ioas, (5, 5)) == -EINVAL
    assert allow(vmm, iommu, ioas, (0, 5), (5, 8)) == -EINVAL
    assert allow(vmm, iommu, ioas, (0x10000, 0x11FFF), (0x20000, 0x20FFF)) == 0
    assert vmm.map(iommu, ioas, RAM, 8192, ANYWHERE) == 0x10000
    assert vmm.map(iommu, ioas, RAM, 4096, ANYWHERE) == 0x20000
    assert vmm.map(iommu, ioas, RAM, 4096, ANYWHERE) == -28
    assert vmm.map(iommu, ioas, RAM, 4096, 0) == 0, "a fixed address may be another"


def test_an_unmap_takes_whole_mappings_only(vmm: Vmm, iommu: int, ioas: int) -> None:
    for page in (0, 1, 3):
        assert vmm.map(iommu, ioas, RAM, 4096, page * 4096) == page * 4096
    assert vmm.map(iommu, ioas, RAM, 8192, 0x10000) == 0x10000
    assert vmm.unmap(iommu, 99, 0, 4096) == -ENOENT
    assert vmm.unmap(iommu, ioas, 0, 0) == -EINVAL
    assert vmm.unmap(iommu, ioas, BIG, 1) == -EOVERFLOW
    assert vmm.unmap(iommu, ioas, 4096, BIG - 1) == -EOVERFLOW
    assert vmm.unmap(iommu, ioas, 8192, 4096) == -ENOENT
    assert vmm.unmap(iommu, ioas, 0x10000, 4096) == -ENOENT
    assert vmm.unmap(iommu, ioas, 0x11000, 4096) == -ENOENT
    assert vmm.unmap(iommu, ioas, 0, 16384) == 12288
    assert vmm.unmap(iommu, ioas, 0, BIG) == 8192
    assert vmm.unmap(iommu, ioas, 0, BIG) == 0


def test_a_whole_address_space_has_0_bytes(vmm: Vmm, iommu: int, ioas: int) -> None:
    half = 1 << 63
    for _ in range(2):
        assert [vmm.map(iommu, ioas, 0, half, start) for start in (0, half)] == [0, half]
        assert vmm.unmap(iommu, ioas, 0, BIG) == 0
    assert vmm.call(iommu, uapi.IOMMU_VFIO_IOAS, uapi.VFIO_IOAS.pack(12, ioas, uapi.IOMMU_VFIO_IOAS_SET, 0)) == 0
    assert [vmm.map(iommu, ioas, 0, half, start) for start in (0, half)] == [0, half]
    everything = vfio.IOMMU_TYPE1_DMA_UNMAP.pack(24, vfio.VFIO_DMA_UNMAP_FLAG_ALL, 0, 0)
    assert vmm.call(iommu, vfio.VFIO_IOMMU_UNMAP_DMA, everything) == 0
    assert vfio.IOMMU_TYPE1_DMA_UNMAP.unpack(vmm.read(SCRATCH, 24))[3] == 0


def test_many_mappings_are_answered_soon(vmm: Vmm, iommu: int, ioas: int) -> None:
    many = 20_000
    begun = time.process_time()
    for number_of_maps in range(many):
        start = vmm.map(iommu, ioas, 0, 4096, ANYWHERE)
        assert start == (number_of_maps + 1) * 4096
    assert vmm.unmap(iommu, ioas, 0, 4096 * many // 2) == 4096 * (many // 2 - 1)
    assert vmm.unmap(iommu, ioas, 0, BIG) == 4096 * (many // 2 + 1)
    for _ in range(many):
        vmm.ioas(iommu)
    assert vmm.ioas(iommu) == many + 2
    assert time.process_time() - begun < 15


def test_an_address_space_takes_65536_mappings(world: DeviceWorld, vmm: Vmm, iommu: int, ioas: int) -> None:
    """Each copy of the whole space doubles them. One call looks at all, while the other programs wait."""

    def copy(length: int) -> object:
        return vmm.call(iommu, uapi.IOMMU_IOAS_COPY, uapi.IOAS_COPY.pack(40, 7, ioas, ioas, length, length, 0))

    assert vmm.map(iommu, ioas, RAM, 4096, 0) == 0
    for doublings in range(16):
        assert copy(4096 << doublings) == 0
    assert copy(4096 << 16) == -ENOMEM
    assert vmm.map(iommu, ioas, RAM, 4096, 4096 << 16) == -ENOMEM
    assert vmm.unmap(iommu, ioas, 0, 4096) == 4096
    assert vmm.map(iommu, ioas, RAM, 8192, 4096 << 16) == 4096 << 16
    compatible = uapi.VFIO_IOAS.pack(12, ioas, uapi.IOMMU_VFIO_IOAS_SET, 0)
    assert vmm.call(iommu, uapi.IOMMU_VFIO_IOAS, compatible) == 0
    assert option(vmm, iommu, uapi.IOMMU_OPTION_HUGE_PAGES, uapi.IOMMU_OPTION_OP_SET, ioas, 0) == 0
    unmap = vfio.IOMMU_TYPE1_DMA_UNMAP.pack(24, 0, (4096 << 16) + 4096, 4096)
    assert vmm.call(iommu, vfio.VFIO_IOMMU_UNMAP_DMA, unmap) == -ENOMEM, "it would cut a mapping in two"
    assert vmm.unmap(iommu, ioas, 0, BIG) == 4096 * 65537
    assert world.pinned == []


def test_what_is_unmapped_or_closed_is_not_pinned(world: DeviceWorld, vmm: Vmm, iommu: int, ioas: int) -> None:
    assert vmm.map(iommu, ioas, RAM, 4096, 0) == 0
    assert vmm.map(iommu, ioas, RAM, 4096, 4096) == 4096
    assert vmm.map(iommu, ioas, RAM, 4096, 8192) == 8192
    assert len(world.pinned) == 3
    assert vmm.unmap(iommu, ioas, 0, 4096) == 4096
    assert len(world.pinned) == 2
    assert vmm.destroy(iommu, ioas) == 0
    assert world.pinned == []
    other = vmm.ioas(iommu)
    assert vmm.map(iommu, other, RAM, 4096, 0) == 0
    vmm.close(iommu)
    assert world.pinned == []


def test_with_a_page_table_there_is_a_last_address(vmm: Vmm, iommu: int, ioas: int) -> None:
    beyond = 1 << 48
    assert ranges(vmm, iommu, ioas) == [(0, BIG)]
    assert vmm.map(iommu, ioas, RAM, 4096, beyond) == beyond
    device = number(vmm.bind(number(vmm.open_cdev(A)), iommu))
    assert vmm.hwpt(iommu, device, ioas) == -EADDRINUSE
    assert vmm.unmap(iommu, ioas, 0, BIG) == 4096
    assert vmm.map(iommu, ioas, RAM, 100, 7) == 7
    assert vmm.hwpt(iommu, device, ioas) == -EADDRINUSE
    assert vmm.unmap(iommu, ioas, 0, BIG) == 100
    assert allow(vmm, iommu, ioas, (beyond, beyond + 0xFFF)) == 0
    assert vmm.hwpt(iommu, device, ioas) == -EADDRINUSE
    assert allow(vmm, iommu, ioas) == 0
    table = number(vmm.hwpt(iommu, device, ioas))
    assert ranges(vmm, iommu, ioas) == [(0, beyond - 1)]
    assert vmm.map(iommu, ioas, RAM, 8192, beyond - 4096) == -EINVAL
    assert vmm.map(iommu, ioas, RAM, 4096, 100) == -EINVAL
    assert vmm.map(iommu, ioas, RAM, 100, 0) == -EINVAL
    assert allow(vmm, iommu, ioas, (beyond, beyond + 0xFFF)) == -EADDRINUSE
    assert vmm.destroy(iommu, table) == 0
    assert ranges(vmm, iommu, ioas) == [(0, BIG)]


def test_while_a_device_is_attached_the_window_of_its_interrupts_is_reserved(vmm: Vmm, iommu: int, ioas: int) -> None:
    cdev = number(vmm.open_cdev(A))
    device = number(vmm.bind(cdev, iommu))
    table = number(vmm.hwpt(iommu, device, ioas))
    assert vmm.map(iommu, ioas, RAM, 4096, 0xFEE00000) == 0xFEE00000, "a page table alone does not reserve it"
    assert vmm.attach(cdev, table) == -EADDRINUSE
    assert vmm.attach(cdev, ioas) == -EADDRINUSE
    assert vmm.unmap(iommu, ioas, 0, BIG) == 4096
    assert allow(vmm, iommu, ioas, (0xFEE00000, 0xFEE00FFF)) == 0
    assert vmm.attach(cdev, table) == -EADDRINUSE
    assert allow(vmm, iommu, ioas) == 0
    assert vmm.attach(cdev, table) == table
    assert ranges(vmm, iommu, ioas) == [(0, 0xFEDFFFFF), (0xFEF00000, (1 << 48) - 1)]
    assert ranges(vmm, iommu, ioas, room=1) == -EMSGSIZE
    assert vmm.map(iommu, ioas, RAM, 4096, 0xFEE00000) == -EINVAL
    assert allow(vmm, iommu, ioas, (0xFEE00000, 0xFEE00FFF)) == -EADDRINUSE
    assert vmm.detach(cdev) == 0
    assert ranges(vmm, iommu, ioas) == [(0, (1 << 48) - 1)]


def test_what_a_page_table_refuses_and_in_which_order(vmm: Vmm, iommu: int, ioas: int, table: int) -> None:
    def alloc(
        *, flags: int = 0, device: int = 2, pt: int = ioas, reserved: int = 0, kind: int = 0, size: int = 0
    ) -> int:
        argument = uapi.HWPT_ALLOC.pack(48, flags, device, pt, 0, reserved, kind, size, 0, 0, 0)
        result = vmm.call(iommu, uapi.IOMMU_HWPT_ALLOC, argument)
        assert isinstance(result, int)
        return result

    assert alloc(reserved=1) == -EOPNOTSUPP
    assert alloc(kind=1) == -EINVAL
    assert alloc(size=1) == -EINVAL
    assert alloc(device=99) == -ENOENT
    assert alloc(device=ioas) == -ENOENT
    assert alloc(pt=99) == -EINVAL
    assert alloc(pt=2) == -EINVAL, "a device"
    # A page table below another one: no data, and a parent that cannot be one.
    assert alloc(pt=table) == -EOPNOTSUPP
    assert alloc(pt=table, kind=1, size=8) == -EINVAL
    assert alloc(flags=1) == -EOPNOTSUPP
    assert alloc(flags=uapi.IOMMU_HWPT_ALLOC_PASID) == 0
    assert alloc(kind=1, size=8) == -EOPNOTSUPP
    assert alloc() == 0
    assert vmm.call(iommu, uapi.IOMMU_HWPT_ALLOC, uapi.HWPT_ALLOC.pack(24, 0, 2, ioas, *[0] * 7)[:24]) == 0
    assert vmm.call(iommu, uapi.IOMMU_HWPT_ALLOC, uapi.HWPT_ALLOC.pack(23, 0, 2, ioas, *[0] * 7)) == -EINVAL
    assert vmm.destroy(iommu, 2) == -EBUSY, "the device is its driver's"
    assert vmm.destroy(iommu, ioas) == -EBUSY


def test_a_files_end_is_looked_at_once_there_is_a_page_table(vmm: Vmm, iommu: int, ioas: int) -> None:
    memory = vmm.memfd(bytes(8192))
    assert vmm.map_file(iommu, ioas, memory, 4096, 8192, 0) == 0
    device = number(vmm.open_cdev(A))
    number(vmm.bind(device, iommu))
    assert vmm.attach(device, ioas) == -EINVAL
    number(vmm.unmap(iommu, ioas, 0, 8192))
    assert vmm.map_file(iommu, ioas, iommu, 0, 4096, 0) == 0, "no memfd"
    assert vmm.attach(device, ioas) == -EINVAL
    number(vmm.unmap(iommu, ioas, 0, 4096))
    number(vmm.attach(device, ioas))
    assert vmm.map_file(iommu, ioas, memory, 4096, 8192, 0) == -EINVAL
    assert vmm.map_file(iommu, ioas, iommu, 0, 4096, 0) == -EINVAL


def test_an_option_looks_for_its_address_space_before_its_operation(vmm: Vmm, iommu: int, ioas: int) -> None:
    assert option(vmm, iommu, uapi.IOMMU_OPTION_HUGE_PAGES, 2, 99) == -ENOENT
    assert option(vmm, iommu, uapi.IOMMU_OPTION_HUGE_PAGES, 2, ioas) == -EOPNOTSUPP
    assert option(vmm, iommu, uapi.IOMMU_OPTION_RLIMIT_MODE, 2) == -EOPNOTSUPP


def test_a_device_writes_into_a_mapped_file(world: DeviceWorld, vmm: Vmm, iommu: int, ioas: int) -> None:
    memory = vmm.memfd(bytes(8192))
    assert vmm.map_file(iommu, ioas, 99, 0, 4096, 0) == -EBADF
    assert vmm.map_file(iommu, ioas, memory, 0, 0, 0) == -EINVAL
    assert vmm.map_file(iommu, ioas, memory, BIG, 2, 0) == -EOVERFLOW
    assert vmm.map_file(iommu, 99, memory, 0, 4096, 0) == -ENOENT
    assert vmm.map_file(iommu, ioas, memory, 4096, 4096, 0) == 0
    inode = vmm.inode(memory)
    vmm.close(memory)
    device, _ = number(vmm.open_cdev(A)), None
    number(vmm.bind(device, iommu))
    number(vmm.attach(device, ioas))
    vmm.set_config(device, 4, 6)
    vmm.pwrite(device, 0x18, (16).to_bytes(8, "little") + (4).to_bytes(8, "little") + b"\x42")
    vmm.pwrite(device, 0x08, b"\3")
    assert inode.data == bytes(4096 + 16) + b"BBBB" + bytes(4096 - 20)
    assert world.pinned


def test_copy_shares_the_pages(world: DeviceWorld, vmm: Vmm, iommu: int, ioas: int) -> None:
    other = vmm.ioas(iommu)

    def copy(source: int, start: int, length: int, to: int, iova: int, flags: int = 7) -> int:
        argument = uapi.IOAS_COPY.pack(40, flags, to, source, length, iova, start)
        result = vmm.call(iommu, uapi.IOMMU_IOAS_COPY, argument)
        assert isinstance(result, int)
        return result

    assert vmm.map(iommu, ioas, RAM, 8192, 0) == 0
    assert vmm.map(iommu, ioas, RAM + 8192, 4096, 8192, flags=4) == 8192
    assert copy(ioas, 0, 4096, other, 0, flags=8) == -EOPNOTSUPP
    assert copy(ioas, BIG, 4096, other, 0) == -EOVERFLOW
    assert copy(ioas, 0, 4096, other, 0, flags=1) == -EINVAL
    assert copy(99, 0, 4096, other, 0) == -ENOENT
    assert copy(ioas, 0, 4096, 99, 0) == -ENOENT
    assert copy(ioas, 0, 0, 99, 0) == -EINVAL, "the source comes before the target"
    assert copy(ioas, 4096, BIG - 4094, 99, 0) == -EOVERFLOW
    assert copy(ioas, 4096, 12288, other, 0) == -ENOENT
    assert copy(ioas, 4096, 8192, other, 0) == -EPERM
    assert copy(ioas, 4096, 8192, other, 0, flags=5) == 0
    assert copy(ioas, 0, 4096, other, 4096) == -EEXIST
    assert len(world.pinned) == 2
    assert vmm.unmap(iommu, ioas, 0, BIG) == 12288
    assert len(world.pinned) == 2
    assert vmm.unmap(iommu, other, 0, 4096) == 4096
    assert vmm.unmap(iommu, other, 0, BIG) == 4096
    assert world.pinned == []


def test_options_are_read_and_set_where_they_may_be(vmm: Vmm, iommu: int) -> None:
    limits, huge, write, read = 0, 1, 0, 1
    assert option(vmm, iommu, limits, read) == 0
    assert option(vmm, iommu, limits, write, value=1) == -EPERM
    vmm.capabilities.add(CAP_SYS_RESOURCE)
    assert option(vmm, iommu, limits, write, value=2) == -EINVAL
    assert option(vmm, iommu, limits, write, value=1) == 1
    assert option(vmm, iommu, limits, read) == 1
    assert option(vmm, iommu, limits, read, thing=1) == -EOPNOTSUPP
    assert option(vmm, iommu, limits, 2) == -EOPNOTSUPP
    assert option(vmm, iommu, 2, read) == -EOPNOTSUPP
    ioas = vmm.ioas(iommu)
    assert option(vmm, iommu, limits, write, value=0) == -EBUSY
    assert option(vmm, iommu, huge, read, thing=99) == -ENOENT
    assert option(vmm, iommu, huge, read, thing=ioas) == 1
    assert option(vmm, iommu, huge, write, thing=ioas, value=2) == -EINVAL
    assert option(vmm, iommu, huge, write, thing=ioas, value=0) == 0
    assert option(vmm, iommu, huge, read, thing=ioas) == 0
    assert vmm.map(iommu, ioas, RAM, 100, 0) == -EINVAL, "pages are the smallest unit then"


def test_hw_info_says_nothing(vmm: Vmm, iommu: int, table: int) -> None:
    layout = uapi.HW_INFO
    vmm.poke(SCRATCH + 512, b"x" * 16)
    assert vmm.call(iommu, uapi.IOMMU_GET_HW_INFO, layout.pack(40, 0, 2, 16, SCRATCH + 512, 0, 0, bytes(3), 0)) == 0
    assert layout.unpack(vmm.read(SCRATCH, 40)) == (40, 0, 2, 0, SCRATCH + 512, 0, 0, bytes(3), 0)
    assert vmm.read(SCRATCH + 512, 17) == bytes(17)
    assert vmm.call(iommu, uapi.IOMMU_GET_HW_INFO, layout.pack(40, 0, 1, 0, 0, 0, 0, bytes(3), 0)) == -ENOENT
    assert vmm.call(iommu, uapi.IOMMU_GET_HW_INFO, layout.pack(40, 2, 2, 0, 0, 0, 0, bytes(3), 0)) == -EOPNOTSUPP
    assert vmm.call(iommu, uapi.IOMMU_GET_HW_INFO, layout.pack(40, 0, 2, 0, 0, 0, 0, b"\0\1\0", 0)) == -EOPNOTSUPP
    assert vmm.call(iommu, uapi.IOMMU_GET_HW_INFO, layout.pack(31, 0, 2, 0, 0, 0, 0, bytes(3), 0)) == -EINVAL


def test_hw_info_zeroes_a_buffer_up_to_its_end_in_pieces(vmm: Vmm, iommu: int, table: int) -> None:
    layout = uapi.HW_INFO
    tracemalloc.start()
    try:
        request = layout.pack(40, 0, 2, (1 << 32) - 1, RAM, 0, 0, bytes(3), 0)
        assert vmm.call(iommu, uapi.IOMMU_GET_HW_INFO, request) == -EFAULT
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


def test_change_process_is_for_file_mappings(vmm: Vmm, iommu: int, ioas: int) -> None:
    change = uapi.IOMMU_IOAS_CHANGE_PROCESS
    assert vmm.map_file(iommu, ioas, vmm.memfd(bytes(4096)), 0, 4096, 0) == 0
    assert vmm.call(iommu, change, uapi.IOAS_CHANGE_PROCESS.pack(8, 1)) == -EOPNOTSUPP
    assert vmm.call(iommu, change, uapi.IOAS_CHANGE_PROCESS.pack(8, 0)) == 0
    assert vmm.map(iommu, ioas, RAM, 4096, 4096) == 4096
    assert vmm.call(iommu, change, uapi.IOAS_CHANGE_PROCESS.pack(8, 0)) == -EINVAL


def test_the_address_space_for_vfio_is_put_read_and_cleared(vmm: Vmm, iommu: int, ioas: int) -> None:
    get, put, clear = 0, 1, 2

    def ask(operation: int, thing: int = 0, reserved: int = 0) -> int:
        argument = uapi.VFIO_IOAS.pack(12, thing, operation, reserved)
        result = vmm.call(iommu, uapi.IOMMU_VFIO_IOAS, argument)
        assert isinstance(result, int)
        return result if result else int(uapi.VFIO_IOAS.unpack(vmm.read(SCRATCH, 12))[1])

    assert ask(get) == -ENODEV
    assert ask(3) == -EOPNOTSUPP
    assert ask(get, reserved=1) == -EOPNOTSUPP
    assert ask(put, 99) == -ENOENT
    assert ask(put, ioas) == ioas
    assert ask(get) == ioas
    assert ask(clear) == 0
    assert ask(get) == -ENODEV
    assert ask(put, ioas) == ioas
    assert vmm.destroy(iommu, ioas) == 0
    assert ask(get) == -ENODEV


def test_many_allowed_ranges_are_answered_soon(vmm: Vmm, iommu: int, ioas: int) -> None:
    """The machine waits while a call is answered. A comparison of each range with each other one takes a minute."""
    count = 20_000
    evens = [(each << 13, (each << 13) + 4095) for each in range(0, count, 2)]
    odds = [(each << 13, (each << 13) + 4095) for each in reversed(range(1, count, 2))]
    address = vmm.ram(count * uapi.IOVA_RANGE.size // 4096 + 2)
    vmm.poke(address, b"".join(uapi.IOVA_RANGE.pack(*each) for each in (*evens, *odds, evens[7])))
    begun = time.process_time()
    for many, answer in ((count, 0), (count + 1, -EINVAL)):
        argument = uapi.IOAS_ALLOW_IOVAS.pack(24, ioas, many, 0, address)
        assert vmm.call(iommu, uapi.IOMMU_IOAS_ALLOW_IOVAS, argument) == answer
    assert time.process_time() - begun < 5
