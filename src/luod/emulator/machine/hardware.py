"""The devices of a machine, which outlive its kexecs, as its settings describe them.

The model of devices is imported when a machine has some. What a boot shows of them in /sys and /dev is in `devices`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from luod.emulator.machine.faults import MachineError

if TYPE_CHECKING:
    from luod.emulator.model.vfio.hardware.description import DeviceDescription
    from luod.emulator.model.vfio.rules import Rules


@dataclass(frozen=True)
class DeviceSettings:
    descriptions: Sequence[DeviceDescription]
    rules: Rules
    iommufd_preservation: bool = False
    """Preserve iommufds as the posted iommufd series does. The two rule tables do not cover this."""


class Hardware:
    """The devices of a machine, which outlive its kexecs."""

    def __init__(self, settings: DeviceSettings, log: Callable[[str], None]) -> None:
        """Raises MachineError for devices that cannot be in one machine."""
        from luod.emulator.machine import devices
        from luod.emulator.model.vfio.bus import Bus
        from luod.emulator.trap.devices.memory import DeviceMemory

        self.memory = DeviceMemory(log)
        try:
            self.bus = Bus(
                self.memory,
                settings.descriptions,
                rules=settings.rules,
                iommufd_preservation=settings.iommufd_preservation,
            )
        except ValueError as error:
            raise MachineError(str(error)) from None
        self.bus.can_map = devices.can_map()
