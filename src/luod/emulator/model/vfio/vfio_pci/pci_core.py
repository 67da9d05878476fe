"""Devices that are bound to a VFIO driver: their files and users, enabling and disabling, resets, the freeze.

A device exists from bind to unbind, which waits for every file. The calls of a user with access are in `calls.py`.
`cdev.py` and `legacy.group` decide how a file gets access. The order of checks is that of
drivers/vfio/pci/vfio_pci_core.c of Linux 7.3.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from luod.emulator.model.ports import Errno
from luod.emulator.model.vfio.function import Function
from luod.emulator.model.vfio.hardware.config_space import COMMAND_INTX_DISABLE
from luod.emulator.model.vfio.hardware.description import Reset
from luod.emulator.model.vfio.iommu.context import BoundDevice
from luod.emulator.model.vfio.iommu.group import IommuGroup
from luod.emulator.model.vfio.ports import EventFd
from luod.emulator.model.vfio.record import DeviceRecord
from luod.emulator.model.vfio.rules import Obstacle, Rules
from luod.emulator.model.vfio.vfio_pci.irq import Interrupts


@dataclass(frozen=True)
class Surroundings:
    """The objects that all devices of a boot share."""

    rules: Rules
    can_map: bool
    """Whether BARs can be mapped."""
    log: Callable[[str], None]
    devices: VfioDevices


class VfioDevices:
    """The functions of one boot that are registered with VFIO. A function that an unbind waits for still is."""

    def __init__(self) -> None:
        self._devices: dict[Function, VfioDevice] = {}

    def of(self, function: Function) -> VfioDevice | None:
        """Returns the VFIO device of `function`, or None."""
        return self._devices.get(function)

    def usable(self, function: Function) -> VfioDevice | None:
        """Returns the VFIO device of `function`, unless it is being unregistered."""
        device = self.of(function)
        return None if device is None or device.unregistered is not None else device

    def of_group(self, group: IommuGroup) -> list[VfioDevice]:
        """Returns the devices that a user can get through `group`."""
        usable = (self.usable(function) for function in self._devices if function.group is group)
        return [device for device in usable if device is not None]

    def register(self, function: Function, around: Surroundings) -> None:
        """Makes a VFIO device of `function`, with the lowest free index."""
        taken = {device.index for device in self._devices.values()}
        index = next(number for number in range(len(taken) + 1) if number not in taken)
        self._devices[function] = VfioDevice(index, function, around)

    def unregister(self, function: Function) -> None:
        """Removes the VFIO device of `function`. No file of it is open."""
        del self._devices[function]


class VfioDevice:
    """One device. `index` is N of vfioN. `files` counts its open files, `opens` those with access."""

    def __init__(self, index: int, function: Function, around: Surroundings) -> None:
        self.index = index
        self.function = function
        self.around = around
        self._device = function.device
        self._config = function.device.config
        self.files = 0
        self.opens = 0
        self.cdev_bound = False
        self.bound: BoundDevice | None = None
        """The device in the iommufd to which it is bound."""
        self.interrupts: Interrupts | None = None
        self.reset_works = False
        self.frozen = False
        """Whether it was frozen under rules that leave a device dead."""
        self.mapped = False
        """Whether a BAR has been mapped: registers may change without a call."""
        self.carried: DeviceRecord | None = None
        """The record of a device that was retrieved and not enabled since."""
        self.token: bytes | None = None
        """The UUID that users of virtual functions and of their physical function agree on."""
        self._low_power = False
        self._wakeup: EventFd | None = None
        self.unregistered: Callable[[], None] | None = None
        """Set by an unbind that waits. Runs when the last file is closed."""

    @property
    def usable(self) -> bool:
        """Returns whether a file with access is open."""
        return self.interrupts is not None

    def enable(self) -> None:
        """Makes the device ready for the first file with access: idle, without bus mastering.

        Raises Errno(EAGAIN) when it would have to be reset while an unbind waits, which holds its lock.
        """
        resets = self.carried is None or self.around.rules.first_enable_resets
        if resets and self._is_locked:
            raise Errno(errno.EAGAIN)
        carried, self.carried = self.carried, None
        if carried is not None and not resets:
            self.reset_works = carried.reset_works
        else:
            try:
                self._device.reset(first=True)
                self.reset_works = True
            except Errno:
                self.reset_works = False
        if carried is not None:
            carried.enabled = True
        self._config.restore()
        self.interrupts = Interrupts(self._device)
        self._device.interrupt = self.interrupts.deliver

    def disable(self) -> None:
        """Disables the device after its last file with access."""
        assert self.interrupts is not None, "it was enabled"
        self.leave_low_power()
        self.interrupts.close()
        self.interrupts = None
        self._device.isolate()
        self.mapped = False
        self.try_reset()
        self._config.restore()
        self._config.command = 0

    def enter_low_power(self, wakeup: EventFd | None) -> None:
        """Enters low power, until `leave_low_power`: no access ends it, as in a kernel without CONFIG_PM.

        Owns `wakeup`, which no event of this device signals. Raises Errno(EINVAL) in low power.
        """
        if self._low_power:
            if wakeup is not None:
                wakeup.close()
            raise Errno(errno.EINVAL)
        self._low_power, self._wakeup = True, wakeup

    def leave_low_power(self) -> None:
        """Leaves low power, if the device is in it."""
        if self._wakeup is not None:
            self._wakeup.close()
        self._low_power, self._wakeup = False, None

    def try_reset(self) -> int:
        """Changes the device to D0 and resets it. Returns 0, or the errno of the reset."""
        self._config.wake()
        try:
            self._device.reset()
        except Errno as failure:
            return failure.code
        return 0

    def reset_with_bus(self) -> None:
        """Resets the device with its bus, which also resets one that has no reset of its own."""
        self._config.wake()
        self._device.clear()

    @property
    def _is_locked(self) -> bool:
        """Returns whether a reset would have to wait for an unbind. One that does not exist is not tried."""
        return self.function.locked and self._device.description.reset is not Reset.NONE

    def reset(self) -> int:
        """Resets the device for its user. Returns 0, or an errno: EAGAIN while an unbind waits."""
        return errno.EAGAIN if self._is_locked else self.try_reset()

    def has(self, obstacle: Obstacle) -> bool:
        """Returns whether the device is in a state that may fail the kexec."""
        if obstacle is Obstacle.INTERRUPTS:
            return self.interrupts is not None and self.interrupts.enabled
        return self._config.power_state != 0

    def freeze(self) -> None:
        """Resets the device right before the kexec. Raises Errno where a failed reset fails the freeze."""
        rules = self.around.rules
        code = self.try_reset() if self.reset_works or rules.dead_after_freeze else 0
        if code and rules.failed_reset_fails:
            raise Errno(code)
        self._config.restore()
        if rules.dead_after_freeze:
            self._config.command = COMMAND_INTX_DISABLE
            self.frozen = True

    def check_token(self, token: bytes | None) -> None:
        """Checks the token of a virtual function's user.

        Raises Errno(EACCES) for a missing or wrong token, Errno(EINVAL) for a device without tokens.
        """
        if self.function.physical is not None:
            physical = self.around.devices.of(self.function.physical)
            if physical is None:
                if token is not None:
                    raise Errno(errno.EINVAL)
            elif token is None or token != physical.token:
                raise Errno(errno.EACCES)
        elif self.function.virtual:
            others = map(self.around.devices.of, self.function.virtual)
            if any(other is not None and other.opens for other in others):
                if token is None or token != self.token:
                    raise Errno(errno.EACCES)
            elif token is not None:
                self.token = token
        elif token is not None:
            raise Errno(errno.EINVAL)

    def released(self) -> None:
        """Completes a waiting unbind after the last file was released."""
        if not self.files and self.unregistered is not None:
            self.unregistered()


def poll(devices: Iterable[VfioDevice]) -> bool:
    """Lets devices read registers that may have been stored to. Returns False when no device is mapped."""
    found = False
    for device in devices:
        if device.mapped and device.usable and not device.frozen:
            device.function.device.step()
            found = True
    return found
