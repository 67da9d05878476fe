"""Iommu groups: the functions that the IOMMU cannot tell apart, and the one owner of their DMA.

The open file of a group is in `legacy`, its devices are in `vfio_pci`. drivers/iommu/iommu.c of Linux 7.3.
"""

from __future__ import annotations

import errno
from typing import Final

from luod.emulator.model.ports import Errno
from luod.emulator.model.vfio.files import ModelFile

RESTORED: Final = "a page table of the kernel before"
"""The owner of groups with a device that came with a page table."""


class IommuGroup:
    """One group. Its owner is any object. Kernel drivers that do DMA of their own are owners without a name."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.file: ModelFile | None = None
        """The open file of /dev/vfio/N."""
        self.cdevs_bound = 0
        """Number of bound character device files, which exclude that file."""
        self._owner: object = None
        self._claims = 0
        self._kernel_drivers = 0

    @property
    def claimed(self) -> bool:
        """Returns whether the group has an owner, with or without a name."""
        return self._claims > 0 or self._kernel_drivers > 0

    @property
    def owner(self) -> object:
        """Returns the owner; None while the group has no owner, or only the kernel's drivers."""
        return self._owner

    def claim(self, owner: object) -> None:
        """Makes `owner` the owner. An owner may claim its group again, for each of its devices.

        Raises Errno(EPERM) when the group has another owner.
        """
        if self._kernel_drivers or (self._claims and self._owner is not owner):
            raise Errno(errno.EPERM)
        self._owner = owner
        self._claims += 1

    def unclaim(self) -> None:
        """Drops one claim. After the last one the group has no owner."""
        self._claims -= 1
        if not self._claims:
            self._owner = None

    def claim_for_kernel(self) -> None:
        """Counts a driver of the kernel that does DMA of its own.

        Raises Errno when the group has an owner: EBUSY for a user, EPERM for a page table of the kernel before.
        """
        if self._owner is RESTORED:
            raise Errno(errno.EPERM)
        if self._owner is not None:
            raise Errno(errno.EBUSY)
        self._kernel_drivers += 1

    def unclaim_for_kernel(self) -> None:
        """Removes such a driver from the count."""
        self._kernel_drivers -= 1
