"""The questions about a device that is open by VFIO: its regions, the eventfds of its interrupts, and DMA.

One part of `driver`, inside a machine. DMA is done by a device that can copy: QEMU's `edu`, or that of luoemu. The
answers are the same for both. Standard library and luod.uapi only.
"""

from __future__ import annotations

import ctypes
import os
import struct
from typing import Final

from luod.testing.waiting import eventually
from luod.uapi import vfio
from tests.programs import raw_vfio
from tests.programs.address_calls import ARENA, READ_ONLY, SHARED, AddressCalls
from tests.programs.session_calls import Slot

HALF: Final = 2048
"""Bytes copied at once. QEMU 7.2 aborts when a copy ends where the memory of `edu` does, which has 4 KiB."""
_TAG: Final = struct.Struct("=QQ")
_CONFIG: Final = vfio.VFIO_PCI_CONFIG_REGION_INDEX << vfio.PCI_OFFSET_SHIFT
_COMMAND, _BAR0 = _CONFIG + 0x04, _CONFIG + 0x10
_BAR_KIND: Final = 0xF
"""Bits of a BAR that tell its kind: 32 or 64 bits, prefetchable."""
_MEMORY_AND_MASTER: Final = 0x6

# Registers of `edu`: docs/specs/edu.rst of QEMU.
_EDU: Final = 0x010000ED
_EDU_MEMORY: Final = 0x40000
_EDU_SOURCE, _EDU_COMMAND = 0x80, 0x98
_EDU_RUN, _EDU_FROM_DEVICE = 1, 2


class DeviceCalls(AddressCalls):
    """The calls on an open device."""

    _copies = 0

    def do_eventfd(self, slot: str) -> None:
        """Makes an eventfd that does not block."""
        self.put(slot, os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK))

    def do_signalled(self, fd: Slot) -> int:
        """Returns how often an eventfd was signalled since the last question."""
        return os.eventfd_read(self.fd(fd))

    def do_region_read(self, device: Slot, region: int, offset: int, length: int, mask: int) -> list[int]:
        """Returns the number of bytes read, and the bits in `mask` of their value."""
        data = os.pread(self.fd(device), length, (region << vfio.PCI_OFFSET_SHIFT) + offset)
        return [len(data), int.from_bytes(data, "little") & mask]

    def do_region_write(self, device: Slot, region: int, offset: int, data: str) -> int:
        place = (region << vfio.PCI_OFFSET_SHIFT) + offset
        return os.pwrite(self.fd(device), data.encode("latin-1"), place)

    def do_bar_size(self, device: Slot) -> int:
        """Returns the size of BAR 0, as the mask that a guest finds."""
        file = self.fd(device)
        before = os.pread(file, 4, _BAR0)
        try:
            os.pwrite(file, b"\xff" * 4, _BAR0)
            return int.from_bytes(os.pread(file, 4, _BAR0), "little") & ~_BAR_KIND
        finally:
            os.pwrite(file, before, _BAR0)

    def do_copy_by_dma(self, device: Slot, source: int, target: int) -> list[list[int]]:
        """Has the device copy HALF bytes. Returns which half pages of the memory that can be mapped have which copy."""
        file = self.fd(device)
        self._map_arena()
        before = os.pread(file, 2, _COMMAND)
        os.pwrite(file, struct.pack("<H", _MEMORY_AND_MASTER), _COMMAND)
        places = [*range(ARENA, READ_ONLY, HALF), *range(SHARED, SHARED + (1 << 18), HALF)]
        self._copies += 1
        for number, place in enumerate(places):
            ctypes.memmove(place, _TAG.pack(self._copies, number), _TAG.size)
        try:
            identity = int.from_bytes(os.pread(file, 4, 0), "little")
            if identity == _EDU:
                _by_edu(file, source, _EDU_MEMORY, _EDU_RUN)
                _by_edu(file, _EDU_MEMORY, target, _EDU_RUN | _EDU_FROM_DEVICE)
            else:
                os.pwrite(file, struct.pack("<QQQ", source, target, HALF), raw_vfio.SOURCE)
                os.pwrite(file, struct.pack("<I", raw_vfio.COPY), raw_vfio.DOORBELL)
        finally:
            os.pwrite(file, before, _COMMAND)
        copied: list[list[int]] = []
        for number, place in enumerate(places):
            when, which = _TAG.unpack(ctypes.string_at(place, _TAG.size))
            # Where the source cannot be read, `edu` writes bytes of its own.
            if when == self._copies and which != number:
                copied.append([number, which])
        return copied


def _by_edu(file: int, source: int, target: int, command: int) -> None:
    os.pwrite(file, struct.pack("<Q", source), _EDU_SOURCE)
    os.pwrite(file, struct.pack("<Q", target), _EDU_SOURCE + 8)
    os.pwrite(file, struct.pack("<Q", HALF), _EDU_SOURCE + 16)
    os.pwrite(file, struct.pack("<Q", command), _EDU_COMMAND)
    eventually(lambda: not os.pread(file, 4, _EDU_COMMAND)[0] & _EDU_RUN, describe="the device has copied")
