"""The objects of one open file of /dev/iommu: address spaces, page tables and bound devices, each with a number.

It keeps their dependencies and lifetimes, as drivers/iommu/iommufd/device.c and hw_pagetable.c of Linux 7.3, without
nested page tables. `iommufd.py` has the ioctls that make them, `ioas.py` the mappings.
"""

from __future__ import annotations

import errno
import heapq
from collections.abc import Iterator
from typing import Final, TypeVar

from luod.emulator.model.ports import Errno
from luod.emulator.model.vfio.files import ModelFile
from luod.emulator.model.vfio.hardware.device import Device
from luod.emulator.model.vfio.iommu.fault_queue import FaultQueue
from luod.emulator.model.vfio.iommu.group import IommuGroup
from luod.emulator.model.vfio.iommu.ioas import Ioas
from luod.emulator.model.vfio.iommu.locked import Account, LockedMemory
from luod.emulator.model.vfio.ports import DeviceCaller

_PASID_MAXIMUM: Final = (1 << 31) - 1


class PageTable:
    """A HWPT. An `automatic` one is made for devices that are attached to an IOAS, and ends with the last of them."""

    def __init__(self, ioas: Ioas, *, automatic: bool, faults: FaultQueue | None = None) -> None:
        """Raises Errno: EADDRINUSE, EFAULT, EINVAL."""
        ioas.add_page_table()
        self.ioas = ioas
        self.automatic = automatic
        self.faults = faults
        self.devices: list[BoundDevice] = []
        self.preserve_token: int | None = None


class BoundDevice:
    """A device in an iommufd. It does DMA only through the page table to which its iommu group is attached.

    The first device of a group that is attached attaches the group, and the last one that is detached detaches it.
    It is attached with or without a PASID, and detached in the same way. This device has only PASID 0, which is the
    device itself.
    """

    def __init__(self, context: Context, device: Device, group: IommuGroup, file: ModelFile) -> None:
        """Owns a reference to `file`, the file of the context."""
        self.context = context
        self._device = device
        self._group = group
        self._file = file
        self.number = 0
        self.page_table: PageTable | None = None
        self._with_pasid = False
        """Whether it was attached with PASID 0. An attach without a PASID is EBUSY then, and the reverse."""

    def attach(self, number: int) -> int:
        """Attaches the device to an IOAS or a page table, and returns the page table's number.

        Raises Errno: ENOENT, EADDRINUSE, EBUSY (it is attached with a PASID), ENODEV (a page table with a fault queue),
        and EINVAL when another device of the iommu group is attached to another page table.
        """
        return self._change(number, replaces=self.page_table is not None and not self._with_pasid)

    def attach_pasid(self, number: int, pasid: int) -> int:
        """Does what `attach` does, for a PASID. Raises also Errno: ENOSPC, EINVAL for one that the device lacks."""
        if pasid > _PASID_MAXIMUM:
            raise Errno(errno.ENOSPC)
        if pasid:
            self.context.get(number, object)
            raise Errno(errno.EINVAL)
        attached = self._change(number, replaces=self._with_pasid)
        self._with_pasid = True
        return attached

    def detach(self) -> None:
        """Detaches the device, if it is attached without a PASID: its DMA is blocked."""
        if not self._with_pasid:
            self._move(None)

    def detach_pasid(self, pasid: int) -> None:
        """Detaches the device, if it is attached with `pasid`."""
        if self._with_pasid and not pasid:
            self._with_pasid = False
            self._move(None)

    def follow(self) -> None:
        """Lets the device do DMA as the group does, which may be attached already."""
        attached = self._attached_group()
        self._device.dma = attached[0].page_table.ioas.space if attached and attached[0].page_table else None

    def unbind(self) -> None:
        """Removes the device from the context, and closes its reference to the file."""
        self._move(None)
        self._device.dma = None
        self.context.remove(self.number)
        self._group.unclaim()
        self._file.close()

    def _change(self, number: int, *, replaces: bool) -> int:
        target = self.context.get(number, object)
        if isinstance(target, PageTable):
            self._enter(target, replaces=replaces)
            return number
        if isinstance(target, Ioas):
            return self.context.number_of(self._enter_automatic(target, replaces=replaces))
        raise Errno(errno.EINVAL)

    def _enter_automatic(self, ioas: Ioas, *, replaces: bool) -> PageTable:
        for table in self.context.all(PageTable):
            if not table.automatic or table.ioas is not ioas:
                continue
            try:
                self._enter(table, replaces=replaces)
            except Errno as error:
                if error.code == errno.EINVAL:  # not for this device: perhaps another one is
                    continue
                raise
            return table
        if not replaces:
            # The kernel attaches first here, and fills the page table then.
            self._check(None, replaces=False)
            ioas.check_device()
        table = PageTable(ioas, automatic=True)
        self.context.add(table)
        try:
            self._enter(table, replaces=replaces)
        except Errno:
            self.context.drop_if_unused(table)
            raise
        return table

    def _enter(self, table: PageTable, *, replaces: bool) -> None:
        """Attaches the device, or its whole group where it `replaces` a page table."""
        self._check(table, replaces=replaces)
        if self.page_table is table:
            return
        table.ioas.check_device()
        if table.faults is not None:
            raise Errno(errno.ENODEV)  # this device reports no page faults
        for device in self._attached_group() if replaces else [self]:
            device._move(table)

    def _check(self, table: PageTable | None, *, replaces: bool) -> None:
        """Checks whether the group can be in `table`; None: in a new one."""
        if replaces:
            if self.page_table is None:
                raise Errno(errno.EINVAL)
        elif self.page_table is not None:
            raise Errno(errno.EBUSY)
        elif any(device.page_table is not table for device in self._attached_group()):
            raise Errno(errno.EINVAL)

    def _bound_group(self) -> list[BoundDevice]:
        return [device for device in self.context.all(BoundDevice) if device._group is self._group]

    def _attached_group(self) -> list[BoundDevice]:
        return [device for device in self._bound_group() if device.page_table is not None]

    def _move(self, page_table: PageTable | None) -> None:
        """Changes to a page table, or to None, and counts the device in the IOAS."""
        before, self.page_table = self.page_table, page_table
        if before is page_table:
            return
        if page_table is not None:
            page_table.devices.append(self)
            page_table.ioas.attached += 1
        for device in self._bound_group():
            device.follow()
        if before is not None:
            before.devices.remove(self)
            before.ioas.attached -= 1
            self.context.drop_if_unused(before)


Object = Ioas | PageTable | BoundDevice | FaultQueue
Some = TypeVar("Some")


class Context:
    """The objects of one file. A new object gets the lowest free number, from 1 on."""

    def __init__(self, locked: LockedMemory) -> None:
        self._locked = locked
        self.counts_by_process = False
        """Whether locked memory counts for each process and not for each user (IOMMU_OPTION_RLIMIT_MODE)."""
        self._objects: dict[int, Object] = {}
        self._numbers: dict[Object, int] = {}
        self._free: list[int] = []
        """Numbers up to the highest one so far that no object has, as a heap."""
        self._compatible: Ioas | None = None

    def __len__(self) -> int:
        return len(self._objects)

    def close(self) -> None:
        """Drops every mapping when the file is released. No device is bound then: each holds the file."""
        for ioas in self.all(Ioas):
            ioas.space.clear()
        self._objects.clear()
        self._numbers.clear()

    def account(self, caller: DeviceCaller) -> Account:
        """Returns what memory counts against that `caller` maps."""
        return self._locked.account(caller.locker(), by_process=self.counts_by_process)

    def give_pages_to(self, caller: DeviceCaller) -> None:
        """Moves all memory that counts against a user to the caller's account.

        The caller's limit holds even with CAP_IPC_LOCK.

        Raises Errno(ENOMEM): nothing is changed.
        """
        account = self._locked.account(caller.locker(exempt=False), by_process=False)
        every = {area.pages for ioas in self.all(Ioas) for area in ioas.space}
        moved = [pages for pages in every if pages.account.goes_over_to(account)]
        if length := sum(pages.locked for pages in moved):
            account.add(length)
        for pages in moved:
            pages.give_to(account)

    def get(self, number: int, kind: type[Some]) -> Some:
        """Returns object `number`. Raises Errno(ENOENT) when it does not exist or is not a `kind`."""
        found = self._objects.get(number)
        if found is None or not isinstance(found, kind):
            raise Errno(errno.ENOENT)
        return found

    def all(self, kind: type[Some]) -> Iterator[Some]:
        return (each for each in tuple(self._objects.values()) if isinstance(each, kind))

    def add(self, thing: Object) -> int:
        number = heapq.heappop(self._free) if self._free else len(self._objects) + 1
        self._objects[number] = thing
        self._numbers[thing] = number
        return number

    def remove(self, number: int) -> None:
        del self._numbers[self._objects.pop(number)]
        heapq.heappush(self._free, number)

    def number_of(self, thing: Object) -> int:
        return self._numbers[thing]

    def destroy(self, number: int) -> None:
        """Destroys an object. Raises Errno: ENOENT, EBUSY while it is in use; a bound device always is."""
        thing = self.get(number, object)
        if isinstance(thing, PageTable):
            if thing.devices or thing.preserve_token is not None:
                raise Errno(errno.EBUSY)
            thing.ioas.remove_page_table()
        elif isinstance(thing, FaultQueue):
            if thing.is_open or any(table.faults is thing for table in self.all(PageTable)):
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
        bound.follow()
        return bound

    def drop_if_unused(self, table: PageTable) -> None:
        """Removes an automatic page table without attached devices."""
        if table.automatic and not table.devices:
            table.ioas.remove_page_table()
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
