"""A VMM with VFIO devices: `tests.programs.library`, raw calls on devices, and those of `luod.vfio`.

`python3 -m tests.programs.devices`, inside a machine with devices. Standard library and luod only. A device is named by
its PCI address where it has no file yet, and its files, iommufds and eventfds by slots, like all others.
"""

from __future__ import annotations

import fcntl
import os
import struct
import sys
from pathlib import Path

from luod import vfio as luod_vfio
from luod.uapi import iommufd as iommufd_api
from luod.uapi import vfio as api
from tests.programs import raw_vfio
from tests.programs.library import Library
from tests.programs.questions import Slot


class Devices(Library):
    """What `library` can, and devices."""

    # -- raw calls -------------------------------------------------------------------------------------------------

    def do_take(self, address: str) -> str:
        """Gives the device to vfio-pci; the path of its file."""
        return raw_vfio.take(address)

    def do_unbind(self, address: str) -> None:
        """Waits until nobody has the device open."""
        Path("/sys/bus/pci/drivers/vfio-pci/unbind").write_text(address)

    def do_driver(self, address: str) -> str | None:
        link = raw_vfio.sysfs(address, "driver")
        return os.path.basename(os.readlink(link)) if link.is_symlink() else None

    def do_bind(self, device: Slot, iommufd: Slot) -> None:
        raw_vfio.bind(self.fd(device), self.fd(iommufd))

    def do_set_up(self, device: Slot, memory: Slot, slot: str) -> None:
        """Opens an iommufd in `slot`, binds and attaches the device to it, and maps the memory."""
        self.put(slot, raw_vfio.set_up(self.fd(device), self.fd(memory)))

    def do_info(self, device: Slot) -> list[int]:
        return list(raw_vfio.get_info(self.fd(device))[2:4])

    def do_compute(self, device: Slot, memory: Slot, data: str) -> int:
        """Returns the sum of `data`, added up in memory by the device, by DMA."""
        return raw_vfio.compute(self.fd(device), self.fd(memory), data.encode("latin-1"))

    def do_registers(self, device: Slot) -> dict[str, int]:
        page = os.pread(self.fd(device), 64, 0)
        names = {"status": raw_vfio.STATUS, "count": raw_vfio.COUNT, "scratch": raw_vfio.SCRATCH}
        return {name: struct.unpack_from("<I", page, offset)[0] for name, offset in names.items()}

    def do_scratch(self, device: Slot, value: int) -> None:
        os.pwrite(self.fd(device), struct.pack("<Q", value), raw_vfio.SCRATCH)

    def do_command_register(self, device: Slot) -> int:
        """Returns the command register of configuration space: bit 2 is bus mastering."""
        return int.from_bytes(os.pread(self.fd(device), 2, raw_vfio.CONFIG + 4), "little")

    def do_power_state(self, device: Slot, state: int) -> None:
        """Returns 0 for D0 to 3 for D3hot, by the power management capability."""
        config = os.pread(self.fd(device), 256, raw_vfio.CONFIG)
        capability = config[0x34]
        while config[capability] != 0x01:
            capability = config[capability + 1]
        os.pwrite(self.fd(device), struct.pack("<H", state), raw_vfio.CONFIG + capability + 4)

    def do_attach_unmapped(self, device: Slot, slot: str) -> None:
        """Does what `set_up` does, without the memory."""
        context = self.put(slot, raw_vfio.open_iommufd())
        raw_vfio.bind(self.fd(device), context)
        raw_vfio.attach(self.fd(device), raw_vfio.ioas(context))
        raw_vfio.become_master(self.fd(device))

    def do_dma_status(self, device: Slot) -> int:
        """Returns the device's status after it tried to fill memory: 1 done, 2 the IOMMU did not let it."""
        file = self.fd(device)
        os.pwrite(file, raw_vfio.program(raw_vfio.MAPPED_AT, raw_vfio.MAPPED_AT, 8), raw_vfio.SOURCE)
        os.pwrite(file, struct.pack("<I", raw_vfio.FILL), raw_vfio.DOORBELL)
        return int.from_bytes(os.pread(file, 4, raw_vfio.STATUS), "little")

    def do_listen(self, device: Slot, slot: str | None = None, index: int = api.VFIO_PCI_MSIX_IRQ_INDEX) -> None:
        """Makes the first interrupt of a kind signal a new eventfd in `slot`; without one it turns them off."""
        eventfds = [] if slot is None else [self.put(slot, os.eventfd(0, os.EFD_CLOEXEC))]
        raw_vfio.listen(self.fd(device), eventfds, index)

    def do_interrupt(self, device: Slot) -> None:
        """Has the device raise its first vector, and nothing else."""
        os.pwrite(self.fd(device), struct.pack("<I", 1), raw_vfio.VECTOR)
        os.pwrite(self.fd(device), struct.pack("<I", raw_vfio.INTERRUPT), raw_vfio.DOORBELL)

    def do_heard(self, eventfd: Slot) -> int:
        """Waits until the eventfd is signalled; how often it was."""
        return os.eventfd_read(self.fd(eventfd))

    def do_open_group(self, number: int, group: str, container: str) -> None:
        """Opens the group in a container of its own, with an IOMMU."""
        self.put(group, os.open(f"{api.GROUPS}/{number}", os.O_RDWR | os.O_CLOEXEC))
        self.put(container, os.open(api.CONTAINER, os.O_RDWR | os.O_CLOEXEC))
        fcntl.ioctl(self.fd(group), api.VFIO_GROUP_SET_CONTAINER, struct.pack("=i", self.fd(container)))
        fcntl.ioctl(self.fd(container), api.VFIO_SET_IOMMU, api.VFIO_TYPE1v2_IOMMU)

    def do_get_device_fd(self, group: Slot, address: str, slot: str) -> None:
        """Calls VFIO_GROUP_GET_DEVICE_FD."""
        self.put(slot, fcntl.ioctl(self.fd(group), api.VFIO_GROUP_GET_DEVICE_FD, bytearray(address.encode() + b"\0")))

    # -- the posted iommufd series ---------------------------------------------------------------------------------

    def do_share(self, device: Slot, memory: Slot, slot: str, mark: bool = True) -> list[int]:
        """Does what `set_up` does, with a marked page table of its own. Returns (address space, page table)."""
        file, context = self.fd(device), self.put(slot, raw_vfio.open_iommufd())
        number = raw_vfio.bind(file, context)
        space = raw_vfio.ioas(context)
        layout = iommufd_api.HWPT_ALLOC
        values = (0, number, space, 0, 0, 0, 0, 0, 0, 0)
        table = int(raw_vfio.call(context, iommufd_api.IOMMU_HWPT_ALLOC, layout, *values)[4])
        raw_vfio.attach(file, table)
        raw_vfio.map_file(context, space, self.fd(memory))
        raw_vfio.become_master(file)
        if mark:
            layout = iommufd_api.HWPT_LIVEUPDATE_MARK_PRESERVE
            raw_vfio.call(context, iommufd_api.IOMMU_HWPT_LIVEUPDATE_MARK_PRESERVE, layout, table, 1)
        return [space, table]

    def do_map_more(self, iommufd: Slot, space: int, memory: Slot, iova: int) -> None:
        """Maps the memory once more."""
        raw_vfio.map_file(self.fd(iommufd), space, self.fd(memory), iova=iova)

    # -- luod.vfio -------------------------------------------------------------------------------------------------

    def call_bind_driver(self, address: str, **how: str) -> str:
        return luod_vfio.bind_driver(address, **how)

    def call_open_device(self, address: str, slot: str) -> None:
        self.put(slot, luod_vfio.open_device(address).detach())

    def call_open_iommufd(self, slot: str) -> None:
        self.put(slot, luod_vfio.open_iommufd().detach())

    def call_bind(self, device: Slot, iommufd: Slot) -> int:
        return luod_vfio.bind(self.fd(device), self.fd(iommufd))

    def call_new_address_space(self, iommufd: Slot) -> int:
        return luod_vfio.new_address_space(self.fd(iommufd))

    def call_attach(self, device: Slot, page_table: int) -> None:
        luod_vfio.attach(self.fd(device), page_table)

    def call_in_order(self, files: list[Slot]) -> list[Slot]:
        return sorted(files, key=lambda slot: luod_vfio.preservation_order(self.fd(slot)))

    def call_quiesce(self, device: Slot) -> list[int]:
        return list(luod_vfio.quiesce(self.fd(device)))

    def call_state(self, device: Slot) -> str:
        return luod_vfio.state(self.fd(device)).name

    def call_revive(self, address: str) -> str:
        return luod_vfio.revive(address)


if __name__ == "__main__":
    Devices().serve(sys.stdin, sys.stdout)
