"""A device bound to a VFIO driver, and what vfio-pci does for whoever has it open: regions, interrupts, resets.

Made when the driver is bound, gone when it is unbound, which waits for every file. Who may open it, and through what,
is `cdev.py`'s and `group.py`'s. The order of checks is drivers/vfio/pci/vfio_pci_core.c's of Linux 7.3.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from luod.emulator.model.ports import Errno
from luod.emulator.model.vfio import argsz
from luod.emulator.model.vfio.files import Mapping
from luod.emulator.model.vfio.function import Function
from luod.emulator.model.vfio.hardware.config_space import COMMAND_INTX_DISABLE, MSIX_TABLE
from luod.emulator.model.vfio.hardware.config_space import SIZE as CONFIG_SIZE
from luod.emulator.model.vfio.iommu.memory import PAGE
from luod.emulator.model.vfio.ports import DeviceCaller, Memory
from luod.emulator.model.vfio.rules import Obstacle, Rules
from luod.emulator.model.vfio.vfio_pci import hot_reset
from luod.emulator.model.vfio.vfio_pci.irq import Interrupts
from luod.uapi import vfio as uapi

if TYPE_CHECKING:
    from luod.emulator.model.vfio.iommu.context import BoundDevice
    from luod.emulator.model.vfio.liveupdate import DeviceRecord

_MINIMUM_INFO: Final = 16
_OFFSET_MASK: Final = (1 << uapi.PCI_OFFSET_SHIFT) - 1
_UUID: Final = 16


@dataclass(frozen=True)
class Surroundings:
    """What all devices of a boot share."""

    rules: Rules
    can_map: bool
    """Whether BARs can be mapped at all."""
    log: Callable[[str], None]


class VfioDevice:
    """`index` is N of vfioN. Counts its open files; `opens` those that may use the device."""

    def __init__(self, index: int, function: Function, around: Surroundings) -> None:
        self.index = index
        self.function = function
        self._around = around
        self._device = function.device
        self._config = function.device.config
        self.files = 0
        self.opens = 0
        self.cdev_bound = False
        self.bound: BoundDevice | None = None
        """What it is to the iommufd it is bound to."""
        self.interrupts: Interrupts | None = None
        self.reset_works = False
        self.frozen = False
        """Since a freeze, under rules that leave a device dead."""
        self.mapped = False
        """A BAR has been mapped by somebody: registers may change without a call."""
        self.carried: DeviceRecord | None = None
        """Retrieved, and not enabled since."""
        self.token: bytes | None = None
        """The UUID that users of virtual functions and of their physical function agree on."""
        self.unregistered: Callable[[], None] | None = None
        """Called when the last file is gone, by an unbind that waits for it."""

    @property
    def usable(self) -> bool:
        """Whether it is open in a way that gives access to it."""
        return self.interrupts is not None

    def enable(self) -> None:
        """The first file gets access: the device is idle, without bus mastering."""
        carried, self.carried = self.carried, None
        if carried is not None and not self._around.rules.first_enable_resets:
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
        """The last such file is gone."""
        assert self.interrupts is not None, "it was enabled"
        self.interrupts.close()
        self.interrupts = None
        self._device.isolate()
        self.mapped = False
        self.try_reset()
        self._config.restore()
        self._config.command = 0

    def try_reset(self) -> int:
        """A function level reset, D0 again; 0 or the errno that nobody may be interested in."""
        self._config.wake()
        try:
            self._device.reset()
        except Errno as failure:
            return failure.code
        return 0

    def has(self, obstacle: Obstacle) -> bool:
        """Whether it is in a state that a machine may not jump in."""
        if obstacle is Obstacle.INTERRUPTS:
            return self.interrupts is not None and self.interrupts.enabled
        return self._config.power_state != 0

    def freeze(self) -> None:
        """The last moment before the jump, nothing in the way: reset and idle. Errno, where a failed reset fails it."""
        rules = self._around.rules
        code = self.try_reset() if self.reset_works or rules.dead_after_freeze else 0
        if code and rules.failed_reset_fails:
            raise Errno(code)
        self._config.restore()
        if rules.dead_after_freeze:
            self._config.command = COMMAND_INTX_DISABLE
            self.frozen = True

    def check_token(self, token: bytes | None) -> None:
        """Errno(EACCES) without the token that a virtual function's user needs, Errno(EINVAL) where there is none."""
        if self.function.physical is not None:
            physical = self.function.physical.vfio
            if physical is None or self.function.physical.driver is None or not self.function.physical.driver.is_vfio:
                if token is not None:
                    raise Errno(errno.EINVAL)
            elif token is None or token != physical.token:
                raise Errno(errno.EACCES)
        elif self.function.virtual:
            if any(function.vfio is not None and function.vfio.opens for function in self.function.virtual):
                if token is None or token != self.token:
                    raise Errno(errno.EACCES)
            elif token is not None:
                self.token = token
        elif token is not None:
            raise Errno(errno.EINVAL)

    def released(self) -> None:
        """A file is gone, and counted out."""
        if not self.files and self.unregistered is not None:
            self.unregistered()

    # What the files pass on. Every caller has access.

    def ioctl(self, command: int, argument: int, caller: DeviceCaller) -> int:
        if self.frozen:
            raise Errno(errno.EIO)
        match command:
            case uapi.VFIO_DEVICE_GET_INFO:
                return self._get_info(argument, caller)
            case uapi.VFIO_DEVICE_GET_REGION_INFO:
                return self._get_region_info(argument, caller)
            case uapi.VFIO_DEVICE_GET_IRQ_INFO:
                return self._get_irq_info(argument, caller)
            case uapi.VFIO_DEVICE_SET_IRQS:
                assert self.interrupts is not None, "it is enabled"
                return self.interrupts.set(argument, caller)
            case uapi.VFIO_DEVICE_RESET:
                return self._reset()
            case uapi.VFIO_DEVICE_GET_PCI_HOT_RESET_INFO:
                return hot_reset.get_info(self, argument, caller)
            case uapi.VFIO_DEVICE_PCI_HOT_RESET:
                return hot_reset.reset(self, argument, caller)
            case uapi.VFIO_DEVICE_FEATURE:
                return self._feature(argument, caller)
        raise Errno(errno.ENOTTY)

    def _get_info(self, argument: int, caller: DeviceCaller) -> int:
        layout = uapi.DEVICE_INFO
        size = argsz.read(caller, argument, layout, _MINIMUM_INFO)[0]
        flags = uapi.VFIO_DEVICE_FLAGS_PCI | (uapi.VFIO_DEVICE_FLAGS_RESET if self.reset_works else 0)
        values = (size, flags, uapi.VFIO_PCI_NUM_REGIONS, uapi.VFIO_PCI_NUM_IRQS, 0, 0)
        argsz.write(caller, argument, layout, values, size)
        return 0

    def _get_region_info(self, argument: int, caller: DeviceCaller) -> int:
        layout = uapi.REGION_INFO
        size, _, index, *_ = argsz.read(caller, argument, layout)
        if index >= uapi.VFIO_PCI_VGA_REGION_INDEX:  # there is no VGA
            raise Errno(errno.EINVAL)
        flags = uapi.VFIO_REGION_INFO_FLAG_READ | uapi.VFIO_REGION_INFO_FLAG_WRITE
        length = capability = 0
        if index == uapi.VFIO_PCI_CONFIG_REGION_INDEX:
            length = CONFIG_SIZE
        elif index < len(self._device.bars):
            length = self._device.bars[index].size
            if self._around.can_map:
                flags |= uapi.VFIO_REGION_INFO_FLAG_MMAP
                if index == 0 and self._device.description.msix:
                    content = argsz.chain([(uapi.VFIO_REGION_INFO_CAP_MSIX_MAPPABLE, 1, b"")], layout.size)
                    flags |= uapi.VFIO_REGION_INFO_FLAG_CAPS
                    if size >= layout.size + len(content):
                        caller.write(argument + layout.size, content)
                        capability = layout.size
                    else:
                        size = layout.size + len(content)
        else:
            flags = 0
        offset = index << uapi.PCI_OFFSET_SHIFT
        argsz.write(caller, argument, layout, (size, flags, index, capability, length, offset), layout.size)
        return 0

    def _get_irq_info(self, argument: int, caller: DeviceCaller) -> int:
        layout = uapi.IRQ_INFO
        size, _, index, _ = argsz.read(caller, argument, layout)
        if index >= uapi.VFIO_PCI_NUM_IRQS:
            raise Errno(errno.EINVAL)
        assert self.interrupts is not None, "it is enabled"
        flags = uapi.VFIO_IRQ_INFO_EVENTFD
        if index == uapi.VFIO_PCI_INTX_IRQ_INDEX:
            flags |= uapi.VFIO_IRQ_INFO_MASKABLE | uapi.VFIO_IRQ_INFO_AUTOMASKED
        elif index != uapi.VFIO_PCI_MSIX_IRQ_INDEX:
            flags |= uapi.VFIO_IRQ_INFO_NORESIZE
        argsz.write(caller, argument, layout, (size, flags, index, self.interrupts.count(index)), layout.size)
        return 0

    def _reset(self) -> int:
        """EINVAL where it does not work. What stands in configuration space stays, but for the power state."""
        if not self.reset_works:
            raise Errno(errno.EINVAL)
        code = self.try_reset()
        if code:
            raise Errno(code)
        return 0

    def _feature(self, argument: int, caller: DeviceCaller) -> int:
        layout = uapi.DEVICE_FEATURE
        size, flags = argsz.read(caller, argument, layout)
        both = uapi.VFIO_DEVICE_FEATURE_GET | uapi.VFIO_DEVICE_FEATURE_SET
        probe = flags & uapi.VFIO_DEVICE_FEATURE_PROBE
        if flags & ~(uapi.VFIO_DEVICE_FEATURE_MASK | both | uapi.VFIO_DEVICE_FEATURE_PROBE):
            raise Errno(errno.EINVAL)
        if not probe and flags & both == both:
            raise Errno(errno.EINVAL)
        # Migration, low power and dma-buf need what this device has not.
        if flags & uapi.VFIO_DEVICE_FEATURE_MASK != uapi.VFIO_DEVICE_FEATURE_PCI_VF_TOKEN or not self.function.virtual:
            raise Errno(errno.ENOTTY)
        if flags & uapi.VFIO_DEVICE_FEATURE_GET:
            raise Errno(errno.EINVAL)
        if probe:
            return 0
        if not flags & uapi.VFIO_DEVICE_FEATURE_SET or size - layout.size < _UUID:
            raise Errno(errno.EINVAL)
        self.token = caller.read(argument + layout.size, _UUID)
        return 0

    def pread(self, offset: int, length: int) -> bytes:
        """EINVAL outside of the regions, EFAULT beyond configuration space, EIO while the BARs do not answer."""
        index, position = self._locate(offset)
        if not length:
            return b""
        if index == uapi.VFIO_PCI_CONFIG_REGION_INDEX:
            return self._config.read(position, length)
        bar, length = self._access(index, position, length)
        self._device.step()
        data = bar.read(position, length)
        first, last = self._hidden(index, position, length)
        return data[:first] + b"\xff" * (last - first) + data[last:]

    def pwrite(self, offset: int, data: bytes) -> int:
        index, position = self._locate(offset)
        if not data:
            return 0
        if index == uapi.VFIO_PCI_CONFIG_REGION_INDEX:
            if self._config.write(position, data) and self.reset_works:
                self.try_reset()
            return len(data)
        bar, length = self._access(index, position, len(data))
        first, last = self._hidden(index, position, length)
        bar.write(position, data[:first])
        bar.write(position + last, data[last:length])
        self._device.step()
        return length

    def mmap(self, offset: int, length: int) -> Mapping:
        """EINVAL for what is no whole page of a BAR."""
        index, position = self._locate(offset)
        if not self._around.can_map or index >= len(self._device.bars):
            raise Errno(errno.EINVAL)
        bar = self._device.bars[index]
        if position + -(-length // PAGE) * PAGE > bar.size:
            raise Errno(errno.EINVAL)
        self.mapped = True
        return Mapping(bar, position)

    def _locate(self, offset: int) -> tuple[int, int]:
        """(region, offset in it)."""
        if self.frozen:
            raise Errno(errno.EIO)
        index = offset >> uapi.PCI_OFFSET_SHIFT
        if not 0 <= index < uapi.VFIO_PCI_NUM_REGIONS:
            raise Errno(errno.EINVAL)
        return index, offset & _OFFSET_MASK

    def _access(self, index: int, position: int, length: int) -> tuple[Memory, int]:
        """A BAR, and how many bytes of it from `position` on are meant."""
        if index >= len(self._device.bars) or position >= self._device.bars[index].size:
            raise Errno(errno.EINVAL)
        if not self._config.memory_enabled:
            raise Errno(errno.EIO)
        bar = self._device.bars[index]
        return bar, min(length, bar.size - position)

    def _hidden(self, index: int, position: int, length: int) -> tuple[int, int]:
        """Which part of an access falls on the MSI-X table, which users neither read nor write this way."""
        if index or not self._device.description.msix:
            return length, length
        end = MSIX_TABLE + 16 * self._device.description.msix
        first = min(max(MSIX_TABLE - position, 0), length)
        return first, max(first, min(end - position, length))


def poll(devices: Iterable[VfioDevice]) -> bool:
    """Let devices look at registers that may have been stored to. False: none of them can have been."""
    found = False
    for device in devices:
        if device.mapped and device.usable and not device.frozen:
            device.function.device.step()
            found = True
    return found
