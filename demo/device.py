"""A device as a very small VMM uses it: it adds up bytes of the guest's memory, by DMA.

`luod.vfio` has the steps of a live update. The map and the registers are the VMM's own. The device is luoemu's:
src/luod/emulator/model/vfio/hardware/device.py describes its registers, which are repeated here.
"""

from __future__ import annotations

import fcntl
import os
import struct

from luod import vfio
from luod.linux import Fd
from luod.uapi import iommufd
from luod.uapi import vfio as uapi

IOVA = 1 << 32
"""The guest's memory in the device's address space."""
STATUS, DOORBELL, SOURCE, COUNT = 0x04, 0x08, 0x10, 0x30
SUM, DONE = 1, 1
RESULT = struct.Struct("<Q")
CONFIG = uapi.VFIO_PCI_CONFIG_REGION_INDEX << uapi.PCI_OFFSET_SHIFT
MEMORY_AND_MASTER = struct.pack("<H", 0x0006)


class Adder:
    """A device bound to an iommufd, through which it reaches the guest's memory. The caller owns the files."""

    def __init__(self, device: Fd, ram: Fd) -> None:
        self._device = device
        self._ram = ram
        self._iommufd = vfio.open_iommufd()
        vfio.bind(device, self._iommufd)
        space = vfio.new_address_space(self._iommufd)
        vfio.attach(device, space)
        flags = iommufd.IOMMU_IOAS_MAP_FIXED_IOVA
        flags |= iommufd.IOMMU_IOAS_MAP_READABLE | iommufd.IOMMU_IOAS_MAP_WRITEABLE
        layout = iommufd.IOAS_MAP_FILE
        length = os.fstat(ram.fileno()).st_size
        request = layout.pack(layout.size, flags, space, ram.fileno(), 0, length, IOVA)
        fcntl.ioctl(self._iommufd, iommufd.IOMMU_IOAS_MAP_FILE, request)
        self.commands = self._register(COUNT)
        """How many it had carried out when we got it: none, since it comes reset."""
        os.pwrite(device.fileno(), MEMORY_AND_MASTER, CONFIG + 4)

    def add_up(self, length: int) -> int:
        """Returns the sum of the first `length` bytes of the memory, which the device writes behind them."""
        os.pwrite(self._device.fileno(), struct.pack("<QQQQ", IOVA, IOVA + length, length, 0), SOURCE)
        os.pwrite(self._device.fileno(), struct.pack("<I", SUM), DOORBELL)
        status = self._register(STATUS)
        assert status == DONE, f"the device says {status}"
        (found,) = RESULT.unpack(os.pread(self._ram.fileno(), RESULT.size, length))
        return int(found)

    def _register(self, offset: int) -> int:
        return int.from_bytes(os.pread(self._device.fileno(), 4, offset), "little")
