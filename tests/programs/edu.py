"""A VMM with a device of its own: `tests.programs.library`, and QEMU's `edu` device by VFIO and iommufd.

`python3 -m tests.programs.edu`, inside a machine with `-device edu` whose driver is vfio-pci. The device has 4 KiB of
its own and copies them to and from memory by DMA, through the IOMMU. Standard library and luod only.
Registers: docs/specs/edu.rst of QEMU.
"""

from __future__ import annotations

import fcntl
import os
import struct
import sys
from typing import Final

from luod.testing.waiting import eventually
from luod.uapi import iommufd as iommu_api
from luod.uapi import vfio as api
from tests.programs.library import Library
from tests.programs.questions import Slot

LENGTH: Final = 2048
"""Bytes copied at once: half of the device's memory, since QEMU 7.2 aborts when a copy ends where that does."""
_INSIDE: Final = 0x40000
"""Where the device's own memory is, as its DMA engine counts."""
_SOURCE, _TARGET, _COUNT, _COMMAND = 0x80, 0x88, 0x90, 0x98
_RUN, _FROM_DEVICE = 1, 2
_PCI_COMMAND: Final = 4
_PCI_MEMORY_AND_MASTER: Final = 0x2 | 0x4


class Edu(Library):
    """Device and iommufd are fds in slots, like all others."""

    def do_device_info(self, device: Slot) -> list[int]:
        """Flags, number of regions, number of interrupts."""
        layout = api.DEVICE_INFO
        argument = bytearray(layout.pack(layout.size, 0, 0, 0, 0, 0))
        fcntl.ioctl(self.fd(device), api.VFIO_DEVICE_GET_INFO, argument)
        return list(layout.unpack(argument)[1:4])

    def do_bind(self, device: Slot, iommufd: Slot) -> int:
        """Binds the device to an iommufd, attaches it to a new address space, whose id this is, and lets it do DMA."""
        fd, iommu = self.fd(device), self.fd(iommufd)
        bind = api.DEVICE_BIND_IOMMUFD
        fcntl.ioctl(fd, api.VFIO_DEVICE_BIND_IOMMUFD, bytearray(bind.pack(16, 0, iommu, 0, 0)[:16]))
        alloc = iommu_api.IOAS_ALLOC
        argument = bytearray(alloc.pack(alloc.size, 0, 0))
        fcntl.ioctl(iommu, iommu_api.IOMMU_IOAS_ALLOC, argument)
        space: int = alloc.unpack(argument)[2]
        attach = api.DEVICE_ATTACH_IOMMUFD_PT.pack(12, 0, space, 0)[:12]
        fcntl.ioctl(fd, api.VFIO_DEVICE_ATTACH_IOMMUFD_PT, bytearray(attach))
        config = api.VFIO_PCI_CONFIG_REGION_INDEX << api.PCI_OFFSET_SHIFT
        os.pwrite(fd, struct.pack("=H", _PCI_MEMORY_AND_MASTER), config + _PCI_COMMAND)
        return space

    def do_map_dma(self, iommufd: Slot, space: int, name: str, iova: int) -> None:
        """Makes IOMMU_IOAS_MAP of the mapping `name`, readable and writable for the device."""
        mapping, layout = self.maps[name], iommu_api.IOAS_MAP
        flags = iommu_api.IOMMU_IOAS_MAP_FIXED_IOVA
        flags |= iommu_api.IOMMU_IOAS_MAP_READABLE | iommu_api.IOMMU_IOAS_MAP_WRITEABLE
        argument = layout.pack(layout.size, flags, space, 0, mapping.address, mapping.length, iova)
        fcntl.ioctl(self.fd(iommufd), iommu_api.IOMMU_IOAS_MAP, bytearray(argument))

    def do_copy_by_dma(self, device: Slot, source: int, target: int) -> None:
        """Makes the device copy LENGTH bytes from IOVA `source` to IOVA `target`."""
        self._transfer(self.fd(device), source, _INSIDE, _RUN)
        self._transfer(self.fd(device), _INSIDE, target, _RUN | _FROM_DEVICE)

    def _transfer(self, device: int, source: int, target: int, command: int) -> None:
        for register, value in ((_SOURCE, source), (_TARGET, target), (_COUNT, LENGTH), (_COMMAND, command)):
            os.pwrite(device, struct.pack("=I", value), register)
        # BAR 0 is region 0, at offset 0. The device clears the bit when the last byte is where it belongs.
        eventually(lambda: not os.pread(device, 4, _COMMAND)[0] & _RUN, describe="the device has copied")


if __name__ == "__main__":
    Edu().serve(sys.stdin, sys.stdout)
