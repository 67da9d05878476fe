"""The record of a device from one kernel for the next. `liveupdate.py` makes it, an enabled device reads it."""

from __future__ import annotations

from dataclasses import dataclass

from luod.emulator.model.vfio.hardware.description import Address


@dataclass(eq=False)
class DeviceRecord:
    """One device between two kernels, and until it is finished."""

    address: Address
    tracked: bool
    """Whether PCI tracks the device: until FINISH it is opened only by retrieving it."""
    reset_works: bool
    has_page_table: bool
    """Whether the IOMMU domain of the device is carried too."""
    enabled: bool = False
    """Whether a user of the next kernel has had access since the device was retrieved."""

    def drop(self) -> None:
        """Frees nothing: a device has no memory of its own."""
