"""VFIO's and iommufd's ioctls as plain calls on fd numbers, for programs in a machine. Every OSError is the kernel's.

What the emulated device does with its registers is luod.emulator.model.vfio.hardware.device's; here it is spelled out
again.
"""

from __future__ import annotations

import fcntl
import os
import struct
from pathlib import Path
from typing import Any

from luod.uapi import iommufd, vfio

DEVICE = "0000:01:00.0"
"""What the tests call the first device."""
MEMORY = 1 << 20
MAPPED_AT = 0x100000

IDENTITY, STATUS, DOORBELL, VECTOR, SOURCE, DESTINATION, LENGTH, VALUE, COUNT, SCRATCH = (
    0x00, 0x04, 0x08, 0x0C, 0x10, 0x18, 0x20, 0x28, 0x30, 0x38
)  # fmt: skip
SUM, COPY, FILL, INTERRUPT = 1, 2, 3, 4
CONFIG = vfio.VFIO_PCI_CONFIG_REGION_INDEX << vfio.PCI_OFFSET_SHIFT
"""Where configuration space is in a device's file; BAR N is at N << 40."""


def call(fd: int, command: int, layout: struct.Struct, *values: int) -> tuple[Any, ...]:
    """Makes an ioctl with a structure that begins with its own size, and returns the structure afterwards."""
    request = bytearray(layout.pack(layout.size, *values))
    fcntl.ioctl(fd, command, request)
    return layout.unpack(request)


def sysfs(device: str, name: str) -> Path:
    return Path("/sys/bus/pci/devices", device, name)


def take(device: str = DEVICE) -> str:
    """Gives the device to vfio-pci; the path of its character device."""
    sysfs(device, "driver_override").write_text("vfio-pci")
    Path("/sys/bus/pci/drivers_probe").write_text(device)
    return path_of(device)


def path_of(device: str = DEVICE) -> str:
    (name,) = os.listdir(sysfs(device, "vfio-dev"))
    return f"/dev/vfio/devices/{name}"


def open_device(device: str = DEVICE) -> int:
    return os.open(path_of(device), os.O_RDWR | os.O_CLOEXEC)


def open_iommufd() -> int:
    return os.open(iommufd.DEVICE, os.O_RDWR | os.O_CLOEXEC)


def bind(file: int, context: int) -> int:
    """Returns the device's id in the context."""
    layout = vfio.DEVICE_BIND_IOMMUFD
    return int(call(file, vfio.VFIO_DEVICE_BIND_IOMMUFD, layout, 0, context, 0, 0)[3])


def get_info(file: int) -> tuple[Any, ...]:
    return call(file, vfio.VFIO_DEVICE_GET_INFO, vfio.DEVICE_INFO, 0, 0, 0, 0, 0)


def region(file: int, index: int) -> tuple[int, int, int]:
    """Returns (flags, size, offset)."""
    _, flags, _, _, size, offset = call(file, vfio.VFIO_DEVICE_GET_REGION_INFO, vfio.REGION_INFO, 0, index, 0, 0, 0)
    return flags, size, offset


def ioas(context: int) -> int:
    return int(call(context, iommufd.IOMMU_IOAS_ALLOC, iommufd.IOAS_ALLOC, 0, 0)[2])


def attach(file: int, page_table: int) -> None:
    call(file, vfio.VFIO_DEVICE_ATTACH_IOMMUFD_PT, vfio.DEVICE_ATTACH_IOMMUFD_PT, 0, page_table, 0)


_MAP = iommufd.IOMMU_IOAS_MAP_FIXED_IOVA | iommufd.IOMMU_IOAS_MAP_READABLE | iommufd.IOMMU_IOAS_MAP_WRITEABLE


def map_file(context: int, space: int, memory: int, length: int = MEMORY, iova: int = MAPPED_AT) -> None:
    call(context, iommufd.IOMMU_IOAS_MAP_FILE, iommufd.IOAS_MAP_FILE, _MAP, space, memory, 0, length, iova)


def map_memory(context: int, space: int, address: int, length: int, iova: int = MAPPED_AT) -> None:
    call(context, iommufd.IOMMU_IOAS_MAP, iommufd.IOAS_MAP, _MAP, space, 0, address, length, iova)


def attached(file: int) -> tuple[int, int]:
    """Returns a new iommufd that has the device, and the address space that the device sees.

    Makes the device bus master.
    """
    context = open_iommufd()
    bind(file, context)
    space = ioas(context)
    attach(file, space)
    become_master(file)
    return context, space


def set_up(file: int, memory: int) -> int:
    """Does what `attached` does, with the memfd at MAPPED_AT. Returns the iommufd."""
    context, space = attached(file)
    map_file(context, space, memory)
    return context


def open_type1(group: int = 1) -> tuple[int, int]:
    """Returns the group's file, and a new container that has it and an IOMMU."""
    file, container = os.open(f"/dev/vfio/{group}", os.O_RDWR), os.open("/dev/vfio/vfio", os.O_RDWR)
    fcntl.ioctl(file, vfio.VFIO_GROUP_SET_CONTAINER, struct.pack("i", container))
    fcntl.ioctl(container, vfio.VFIO_SET_IOMMU, vfio.VFIO_TYPE1v2_IOMMU)
    return file, container


def device_of(group: int, device: str = DEVICE) -> int:
    return int(fcntl.ioctl(group, vfio.VFIO_GROUP_GET_DEVICE_FD, bytearray(device.encode() + b"\0")))


def become_master(file: int) -> None:
    os.pwrite(file, struct.pack("<H", 0x0006), CONFIG + 4)


def listen(file: int, eventfds: list[int], index: int = vfio.VFIO_PCI_MSIX_IRQ_INDEX) -> None:
    """Makes the device's interrupts, from the first on, signal the eventfds; without any it turns them off."""
    data = b"".join(struct.pack("=i", fd) for fd in eventfds)
    kind = vfio.VFIO_IRQ_SET_DATA_EVENTFD if eventfds else vfio.VFIO_IRQ_SET_DATA_NONE
    flags = kind | vfio.VFIO_IRQ_SET_ACTION_TRIGGER
    size = vfio.IRQ_SET.size + len(data)
    fcntl.ioctl(file, vfio.VFIO_DEVICE_SET_IRQS, vfio.IRQ_SET.pack(size, flags, index, 0, len(eventfds)) + data)


def program(source: int, destination: int, length: int, value: int = 0) -> bytes:
    """Writes the registers from SOURCE on."""
    return struct.pack("<QQQQ", source, destination, length, value)


def command(file: int, number: int, source: int = 0, destination: int = 0, length: int = 0, value: int = 0) -> int:
    """Has the device do something, by writes to its file; VALUE afterwards. Its addresses are offsets in the memory."""
    os.pwrite(file, program(MAPPED_AT + source, MAPPED_AT + destination, length, value), SOURCE)
    os.pwrite(file, struct.pack("<I", number), DOORBELL)
    status, value = struct.unpack("<I32xQ", os.pread(file, 44, STATUS))
    assert status == 1, status
    return int(value)


def compute(file: int, memory: int, data: bytes, at: int = 0) -> int:
    """Puts `data` into the memory, has the device add it up, and returns the sum that it wrote behind it."""
    os.pwrite(memory, data, at)
    command(file, SUM, at, at + 4096, len(data))
    return int.from_bytes(os.pread(memory, 8, at + 4096), "little")
