"""The objects of one open file of /dev/iommu: address spaces, page tables and bound devices, each with a number.

It keeps their dependencies and lifetimes, as drivers/iommu/iommufd/device.c and hw_pagetable.c of Linux 7.3, without
nested page tables. `iommufd.py` has the ioctls that make them, `ioas.py` the mappings.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from typing import TypeVar

from luod.emulator.model.ports import Errno
from luod.emulator.model.vfio.files import ModelFile
from luod.emulator.model.vfio.hardware.device import Device
from luod.emulator.model.vfio.iommu.fault_queue import FaultQueue
from luod.emulator.model.vfio.iommu.group import IommuGroup
from luod.emulator.model.vfio.iommu.ioas import Ioas


class PageTable:
    """A HWPT. An `automatic` one is made for devices that are attached to an IOAS, and ends with the last of them."""

    def __init__(self, ioas: Ioas, *, automatic: bool) -> None:
        """Raises Errno(EADDRINUSE)."""
        ioas.add_page_table()
        self.ioas = ioas
        self.automatic = automatic
        self.devices: list[BoundDevice] = []
        self.preserve_token: int | None = None


class BoundDevice:
    """A device in an iommufd. It does DMA only through the page table to which it is attached."""

    def __init__(self, context: Context, device: Device, group: IommuGroup, file: ModelFile) -> None:
        """Owns a reference to `file`, the file of the context."""
        self.context = context
        self._device = device
        self._group = group
        self._file = file
        self.number = 0
        self.page_table: PageTable | None = None

    def attach(self, number: int) -> int:
        """Attaches the device to an IOAS or a page table, and returns the page table's number.

        Raises Errno: ENOENT, EADDRINUSE, and EINVAL when another device of the iommu group is attached to another page
        table.
        """
        target = self.context.get(number, object)
        if isinstance(target, Ioas):
            page_table = self.context.automatic_page_table(target)
        elif isinstance(target, PageTable):
            page_table = target
        else:
            raise Errno(errno.EINVAL)
        group = [
            device
            for device in self.context.all(BoundDevice)
            if device._group is self._group and device.page_table is not None
        ]
        if self.page_table is None and group and group[0].page_table is not page_table:
            self.context.drop_if_unused(page_table)
            raise Errno(errno.EINVAL)
        for device in [self] if self.page_table is None else group:
            device._move(page_table)
        return self.context.number_of(page_table)

    def detach(self) -> None:
        """Detaches the device: its DMA is blocked."""
        self._move(None)

    def unbind(self) -> None:
        """Removes the device from the context, and closes its reference to the file."""
        self.detach()
        self.context.remove(self.number)
        self._group.unclaim()
        self._file.close()

    def _move(self, page_table: PageTable | None) -> None:
        before, self.page_table = self.page_table, page_table
        if before is page_table:
            return
        if page_table is not None:
            page_table.devices.append(self)
        self._device.dma = None if page_table is None else page_table.ioas.space
        if before is not None:
            before.devices.remove(self)
            self.context.drop_if_unused(before)


Object = Ioas | PageTable | BoundDevice | FaultQueue
Some = TypeVar("Some")


class Context:
    """The objects of one file. A new object gets the lowest free number, from 1 on."""

    def __init__(self) -> None:
        self._objects: dict[int, Object] = {}
        self._compatible: Ioas | None = None

    def __len__(self) -> int:
        return len(self._objects)

    def close(self) -> None:
        """Drops every mapping when the file is released. No device is bound then: each holds the file."""
        for ioas in self.all(Ioas):
            ioas.space.clear()
        self._objects.clear()

    def get(self, number: int, kind: type[Some]) -> Some:
        """Returns object `number`. Raises Errno(ENOENT) when it does not exist or is not a `kind`."""
        found = self._objects.get(number)
        if found is None or not isinstance(found, kind):
            raise Errno(errno.ENOENT)
        return found

    def all(self, kind: type[Some]) -> Iterator[Some]:
        return (each for each in tuple(self._objects.values()) if isinstance(each, kind))

    def add(self, thing: Object) -> int:
        number = next(number for number in range(1, len(self._objects) + 2) if number not in self._objects)
        self._objects[number] = thing
        return number

    def remove(self, number: int) -> None:
        del self._objects[number]

    def number_of(self, thing: Object) -> int:
        return next(number for number, each in self._objects.items() if each is thing)

    def destroy(self, number: int) -> None:
        """Destroys an object. Raises Errno: ENOENT, EBUSY while it is in use; a bound device always is."""
        thing = self.get(number, object)
        if isinstance(thing, PageTable):
            if thing.devices or thing.preserve_token is not None:
                raise Errno(errno.EBUSY)
            thing.ioas.page_tables -= 1
        elif isinstance(thing, FaultQueue):
            if thing.is_open:
                raise Errno(errno.EBUSY)
        elif not isinstance(thing, Ioas) or thing.page_tables:
            raise Errno(errno.EBUSY)
        else:
            thing.space.clear()
            if self._compatible is thing:
                self._compatible = None
        self.remove(number)

    def bind(self, device: Device, group: IommuGroup, file: ModelFile) -> BoundDevice:
        """Binds a device. `file` is the file of this context. Raises Errno(EPERM) when the group has another owner."""
        group.claim(self)
        bound = BoundDevice(self, device, group, file.reference())
        bound.number = self.add(bound)
        return bound

    def automatic_page_table(self, ioas: Ioas) -> PageTable:
        """Returns the automatic page table of `ioas`, and makes it if it does not exist. Raises Errno(EADDRINUSE)."""
        for each in self.all(PageTable):
            if each.automatic and each.ioas is ioas:
                return each
        table = PageTable(ioas, automatic=True)
        self.add(table)
        return table

    def drop_if_unused(self, table: PageTable) -> None:
        """Removes an automatic page table without attached devices."""
        if table.automatic and not table.devices:
            table.ioas.page_tables -= 1
            self.remove(self.number_of(table))

    def marked(self) -> list[PageTable]:
        """Returns the page tables that are marked to be preserved."""
        return [table for table in self.all(PageTable) if table.preserve_token is not None]

    def make_compatible(self) -> int:
        """Returns the number of the IOAS for VFIO's own ioctls, and makes it if it does not exist."""
        if self._compatible is None:
            self._compatible = Ioas()
            self.add(self._compatible)
        return self.number_of(self._compatible)

    @property
    def compatible(self) -> Ioas:
        """Returns the IOAS for VFIO's own ioctls. Raises Errno(ENODEV) without it."""
        if self._compatible is None:
            raise Errno(errno.ENODEV)
        return self._compatible

    @compatible.setter
    def compatible(self, ioas: Ioas | None) -> None:
        self._compatible = ioas
