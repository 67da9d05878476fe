"""PCI functions and bridges as the kernel of one boot knows them: addresses, drivers, iommu groups.

The hardware behind them is in `hardware` and outlives the boot; these objects end with it. `binding.py` binds drivers,
`vfio_pci` has the functions that are registered with VFIO, and `liveupdate.py` carries devices over a kexec.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from luod.emulator.model.vfio.driver import Driver
from luod.emulator.model.vfio.hardware.description import Address
from luod.emulator.model.vfio.hardware.device import Device
from luod.emulator.model.vfio.iommu.group import IommuGroup


@dataclass(eq=False)
class Carriage:
    """How often a function, or for a bridge a function below it, is part of a live update, outgoing and incoming."""

    outgoing: int = 0
    incoming: int = 0


@dataclass(eq=False)
class Port:
    """A root port: the bridge to one bus."""

    address: Address
    bus: int
    carriage: Carriage = field(default_factory=Carriage)
    functions: list[Function] = field(default_factory=list)
    """The functions on that bus."""


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
    unbinding: bool = False
    """Whether the driver is being unbound, which waits for the files of the device."""
    locked: bool = False
    """Whether a request that waits holds the device's lock (device_lock of Linux)."""
    removing: bool = False
    """Whether the device is being unplugged."""
    remove_written: bool = False
    """Whether that was asked by its file `remove`, which is gone from then on."""
    carriage: Carriage = field(default_factory=Carriage)
    virtual: list[Function] = field(default_factory=list)

    def path(self) -> list[tuple[Address, Carriage]]:
        """Returns the device and every bridge between it and the root."""
        above = [] if self.port is None else [(self.port.address, self.port.carriage)]
        return [(self.address, self.carriage), *above]
