"""A driver of the kernel, and the devices it accepts. `binding.py` binds a driver to a device."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from luod.emulator.model.vfio.hardware.description import DeviceDescription

VFIO_PCI: Final = "vfio-pci"


@dataclass(eq=False)
class Driver:
    """One driver of the kernel. The name of a variant of vfio-pci ends in vfio-pci."""

    name: str
    dynamic: list[tuple[int, int]] = field(default_factory=list)
    """(vendor, device) pairs that new_id added."""

    @property
    def is_vfio(self) -> bool:
        """Returns whether the driver hands its devices to users. Every other driver does DMA of its own."""
        return self.name.endswith(VFIO_PCI)

    def matches(self, device: DeviceDescription, override: str | None) -> bool:
        """Returns whether the driver accepts `device`, whose driver_override is `override`."""
        if override is not None:
            return override == self.name
        return device.driver == self.name or (device.vendor, device.device) in self.dynamic
