"""What one boot's kernel knows of the PCI functions and bridges it found: drivers, iommu groups, and who may do DMA.

The hardware behind them is `device.py`'s and goes on; these objects end with the boot. Which driver takes what is
`driver.py`'s, which devices are carried over a jump `liveupdate.py`'s.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from luod.emulator.model.ports import Errno
from luod.emulator.model.vfio.hardware.description import Address
from luod.emulator.model.vfio.hardware.device import Device

if TYPE_CHECKING:
    from luod.emulator.model.vfio.driver import Driver
    from luod.emulator.model.vfio.legacy.group import GroupFile
    from luod.emulator.model.vfio.vfio_pci.pci_core import VfioDevice


@dataclass(eq=False)
class Carriage:
    """How often a function, or for a bridge what is below it, takes part in a live update, on either side of it."""

    outgoing: int = 0
    incoming: int = 0


@dataclass(eq=False)
class Port:
    """A root port: the bridge to one bus."""

    address: Address
    bus: int
    carriage: Carriage = field(default_factory=Carriage)
    functions: list[Function] = field(default_factory=list)
    """What is on that bus."""


@dataclass(eq=False)
class Function:
    """A device as the kernel enumerated it."""

    device: Device
    address: Address
    port: Port | None
    """The bridge above it; None on the root bus."""
    group: IommuGroup
    physical: Function | None = None
    """For a virtual function: the physical one."""
    driver: Driver | None = None
    driver_override: str | None = None
    vfio: VfioDevice | None = None
    """Registered with VFIO; while an unbind waits, still this one."""
    unbinding: bool = False
    carriage: Carriage = field(default_factory=Carriage)
    virtual: list[Function] = field(default_factory=list)

    def path(self) -> list[tuple[Address, Carriage]]:
        """The device and every bridge between it and the root."""
        above = [] if self.port is None else [(self.port.address, self.port.carriage)]
        return [(self.address, self.carriage), *above]

    @property
    def usable_vfio(self) -> VfioDevice | None:
        """Its VFIO device, unless it is being unregistered."""
        return None if self.unbinding else self.vfio


class IommuGroup:
    """Functions that the IOMMU cannot tell apart: one owner of their DMA at a time.

    The owner is any object; drivers of the kernel that do DMA of their own are owners without a name.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self.functions: list[Function] = []
        self.file: GroupFile | None = None
        """The open file of /dev/vfio/N."""
        self.cdevs_bound = 0
        """Bound character device files, which exclude that one."""
        self._owner: object = None
        self._claims = 0

    @property
    def claimed(self) -> bool:
        return self._claims > 0 or self._in_use_by_kernel

    @property
    def _in_use_by_kernel(self) -> bool:
        return any(function.driver is not None and function.driver.does_dma for function in self.functions)

    @property
    def owner(self) -> object:
        """None while nobody, or only the kernel, has it."""
        return self._owner

    def claim(self, owner: object) -> None:
        """Errno(EPERM) when it is somebody else's. The same owner may claim it again, as for each of its devices."""
        if self._in_use_by_kernel or (self._claims and self._owner is not owner):
            raise Errno(errno.EPERM)
        self._owner = owner
        self._claims += 1

    def unclaim(self) -> None:
        self._claims -= 1
        if not self._claims:
            self._owner = None

    @property
    def vfio_devices(self) -> list[VfioDevice]:
        """Those that can be had through the group."""
        devices = (function.usable_vfio for function in self.functions)
        return [device for device in devices if device is not None]
