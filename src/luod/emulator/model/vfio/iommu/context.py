"""What one open file of /dev/iommu has made: address spaces, page tables and bound devices, each with a number.

Objects that need one another, and what goes with what; drivers/iommu/iommufd/device.c and hw_pagetable.c of Linux 7.3,
without nested page tables. The ioctls that make them are `iommufd.py`'s, mappings are `ioas.py`'s.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from typing import TypeVar

from luod.emulator.model.ports import Errno
from luod.emulator.model.vfio.files import ModelFile
from luod.emulator.model.vfio.function import Function
from luod.emulator.model.vfio.iommu.ioas import Ioas


class PageTable:
    """A HWPT. `automatic` ones are made for a device that is attached to an IOAS, and go with the last such device."""

    def __init__(self, ioas: Ioas, *, automatic: bool) -> None:
        """Errno(EADDRINUSE)."""
        ioas.add_page_table()
        self.ioas = ioas
        self.automatic = automatic
        self.devices: list[BoundDevice] = []
        self.preserve_token: int | None = None


class BoundDevice:
    """A device as an iommufd knows it. It does DMA through the page table it is attached to, and none without."""

    def __init__(self, context: Context, function: Function, file: ModelFile) -> None:
        """Owns a reference to `file`, which is the context's."""
        self.context = context
        self.function = function
        self._file = file
        self.number = 0
        self.page_table: PageTable | None = None

    def attach(self, number: int) -> int:
        """To an IOAS or a page table, instead of the one before. The page table's number. ENOENT, EINVAL, EADDRINUSE.

        Devices of one iommu group are attached to the same one: EINVAL for the first that differs.
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
            if device.function.group is self.function.group and device.page_table is not None
        ]
        if self.page_table is None and group and group[0].page_table is not page_table:
            self.context.drop_if_unused(page_table)
            raise Errno(errno.EINVAL)
        for device in [self] if self.page_table is None else group:
            device._move(page_table)
        return self.context.number_of(page_table)

    def detach(self) -> None:
        """Its DMA is blocked."""
        self._move(None)

    def unbind(self) -> None:
        """The context does not have it any more; that may have been the last it was needed for."""
        self.detach()
        self.context.remove(self.number)
        self.function.group.unclaim()
        self._file.close()

    def _move(self, page_table: PageTable | None) -> None:
        before, self.page_table = self.page_table, page_table
        if before is page_table:
            return
        if page_table is not None:
            page_table.devices.append(self)
        self.function.device.dma = None if page_table is None else page_table.ioas.space
        if before is not None:
            before.devices.remove(self)
            self.context.drop_if_unused(before)


Object = Ioas | PageTable | BoundDevice
Some = TypeVar("Some")


class Context:
    """The objects of one file. Numbers are the lowest free, from 1 on."""

    def __init__(self) -> None:
        self._objects: dict[int, Object] = {}
        self._compatible: Ioas | None = None

    def __len__(self) -> int:
        return len(self._objects)

    def close(self) -> None:
        """The file is released: nothing is mapped any more. No device is bound, each holds the file."""
        for ioas in self.all(Ioas):
            ioas.space.clear()
        self._objects.clear()

    def get(self, number: int, kind: type[Some]) -> Some:
        """Errno(ENOENT)."""
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
        """ENOENT, EBUSY while something else needs it, as a device's driver always does."""
        thing = self.get(number, object)
        if isinstance(thing, PageTable):
            if thing.devices or thing.preserve_token is not None:
                raise Errno(errno.EBUSY)
            thing.ioas.page_tables -= 1
        elif not isinstance(thing, Ioas) or thing.page_tables:
            raise Errno(errno.EBUSY)
        else:
            thing.space.clear()
            if self._compatible is thing:
                self._compatible = None
        self.remove(number)

    def bind(self, function: Function, file: ModelFile) -> BoundDevice:
        """Errno(EPERM) when somebody else has the device's group. `file` is the one whose context this is."""
        function.group.claim(self)
        bound = BoundDevice(self, function, file.reference())
        bound.number = self.add(bound)
        return bound

    def automatic_page_table(self, ioas: Ioas) -> PageTable:
        """Errno(EADDRINUSE)."""
        for each in self.all(PageTable):
            if each.automatic and each.ioas is ioas:
                return each
        table = PageTable(ioas, automatic=True)
        self.add(table)
        return table

    def drop_if_unused(self, table: PageTable) -> None:
        """Of those made automatically."""
        if table.automatic and not table.devices:
            table.ioas.page_tables -= 1
            self.remove(self.number_of(table))

    def marked(self) -> list[PageTable]:
        """Page tables to be preserved."""
        return [table for table in self.all(PageTable) if table.preserve_token is not None]

    def make_compatible(self) -> int:
        """Number of the IOAS behind VFIO's own ioctls, made when there is none yet."""
        if self._compatible is None:
            self._compatible = Ioas()
            self.add(self._compatible)
        return self.number_of(self._compatible)

    @property
    def compatible(self) -> Ioas:
        """Errno(ENODEV) where there is none."""
        if self._compatible is None:
            raise Errno(errno.ENODEV)
        return self._compatible

    @compatible.setter
    def compatible(self, ioas: Ioas | None) -> None:
        self._compatible = ioas
