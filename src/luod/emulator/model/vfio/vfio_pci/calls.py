"""The calls of a VFIO device file with access: ioctls, pread and pwrite of the regions, mmap.

The state of the device is in `pci_core.py`, its interrupts are in `irq.py`. The order of checks is that of
drivers/vfio/pci/vfio_pci_core.c of Linux 7.3.
"""

from __future__ import annotations

import errno
import struct
from typing import Final

from luod.emulator.model.ports import PAGE, Errno
from luod.emulator.model.vfio import argsz
from luod.emulator.model.vfio.hardware.config_space import MSIX_TABLE
from luod.emulator.model.vfio.hardware.config_space import SIZE as CONFIG_SIZE
from luod.emulator.model.vfio.hardware.device import Device
from luod.emulator.model.vfio.ports import DeviceCaller, Memory
from luod.emulator.model.vfio.vfio_pci import hot_reset
from luod.emulator.model.vfio.vfio_pci.pci_core import VfioDevice
from luod.uapi import vfio as uapi

_MINIMUM_INFO: Final = 16
_OFFSET_MASK: Final = (1 << uapi.PCI_OFFSET_SHIFT) - 1
_UUID: Final = 16
_WAKEUP: Final = struct.Struct("=iI")
"""`{s32 wakeup_eventfd; u32 reserved}`."""


def ioctl(device: VfioDevice, command: int, argument: int, caller: DeviceCaller) -> int:
    """Answers an ioctl of the device. Raises Errno(EIO) while it is frozen, Errno(ENOTTY) for an unknown command."""
    if device.frozen:
        # The core of VFIO reads these two structures, before it asks the driver.
        if command == uapi.VFIO_DEVICE_GET_REGION_INFO:
            argsz.read(caller, argument, uapi.REGION_INFO)
        elif command == uapi.VFIO_DEVICE_FEATURE:
            _read_feature(argument, caller)
        raise Errno(errno.EIO)
    match command:
        case uapi.VFIO_DEVICE_GET_INFO:
            return _get_info(device, argument, caller)
        case uapi.VFIO_DEVICE_GET_REGION_INFO:
            return _get_region_info(device, argument, caller)
        case uapi.VFIO_DEVICE_GET_IRQ_INFO:
            return _get_irq_info(device, argument, caller)
        case uapi.VFIO_DEVICE_SET_IRQS:
            assert device.interrupts is not None, "it is enabled"
            return device.interrupts.set(argument, caller)
        case uapi.VFIO_DEVICE_RESET:
            return _reset(device)
        case uapi.VFIO_DEVICE_GET_PCI_HOT_RESET_INFO:
            return hot_reset.get_info(device, argument, caller)
        case uapi.VFIO_DEVICE_PCI_HOT_RESET:
            return hot_reset.reset(device, argument, caller)
        case uapi.VFIO_DEVICE_FEATURE:
            return _feature(device, argument, caller)
    raise Errno(errno.ENOTTY)


def _get_info(device: VfioDevice, argument: int, caller: DeviceCaller) -> int:
    layout = uapi.DEVICE_INFO
    size = argsz.read(caller, argument, layout, _MINIMUM_INFO)[0]
    flags = uapi.VFIO_DEVICE_FLAGS_PCI | (uapi.VFIO_DEVICE_FLAGS_RESET if device.reset_works else 0)
    values = (size, flags, uapi.VFIO_PCI_NUM_REGIONS, uapi.VFIO_PCI_NUM_IRQS, 0, 0)
    argsz.write(caller, argument, layout, values, size)
    return 0


def _get_region_info(device: VfioDevice, argument: int, caller: DeviceCaller) -> int:
    layout = uapi.REGION_INFO
    size, _, index, *_ = argsz.read(caller, argument, layout)
    if index >= uapi.VFIO_PCI_VGA_REGION_INDEX:  # there is no VGA
        raise Errno(errno.EINVAL)
    hardware = device.function.device
    flags = uapi.VFIO_REGION_INFO_FLAG_READ | uapi.VFIO_REGION_INFO_FLAG_WRITE
    length = capability = 0
    if index == uapi.VFIO_PCI_CONFIG_REGION_INDEX:
        length = CONFIG_SIZE
    elif index < len(hardware.bars):
        length = hardware.bars[index].size
        if device.around.can_map:
            flags |= uapi.VFIO_REGION_INFO_FLAG_MMAP
            if index == 0 and hardware.description.msix:
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


def _get_irq_info(device: VfioDevice, argument: int, caller: DeviceCaller) -> int:
    layout = uapi.IRQ_INFO
    size, _, index, _ = argsz.read(caller, argument, layout)
    if index >= uapi.VFIO_PCI_NUM_IRQS:
        raise Errno(errno.EINVAL)
    assert device.interrupts is not None, "it is enabled"
    flags = uapi.VFIO_IRQ_INFO_EVENTFD
    if index == uapi.VFIO_PCI_INTX_IRQ_INDEX:
        flags |= uapi.VFIO_IRQ_INFO_MASKABLE | uapi.VFIO_IRQ_INFO_AUTOMASKED
    elif index != uapi.VFIO_PCI_MSIX_IRQ_INDEX or not device.function.device.description.msix:
        flags |= uapi.VFIO_IRQ_INFO_NORESIZE
    argsz.write(caller, argument, layout, (size, flags, index, device.interrupts.count(index)), layout.size)
    return 0


def _reset(device: VfioDevice) -> int:
    """Resets the device. Its configuration space keeps its contents, except for the power state.

    Raises Errno: EINVAL where a reset does not work, EAGAIN while an unbind waits.
    """
    if not device.reset_works:
        raise Errno(errno.EINVAL)
    code = device.reset()
    if code:
        raise Errno(code)
    return 0


def _feature(device: VfioDevice, argument: int, caller: DeviceCaller) -> int:
    """Answers VFIO_DEVICE_FEATURE: the token, and low power. Raises Errno(ENOTTY) for what this device has not."""
    size, flags = _read_feature(argument, caller)
    match flags & uapi.VFIO_DEVICE_FEATURE_MASK:
        case uapi.VFIO_DEVICE_FEATURE_PCI_VF_TOKEN if device.function.virtual:
            if _sets(flags, size, _UUID):
                device.token = caller.read(argument + uapi.DEVICE_FEATURE.size, _UUID)
        case uapi.VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY:
            if _sets(flags, size, 0):
                device.enter_low_power(None)
        case uapi.VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY_WITH_WAKEUP:
            if _sets(flags, size, _WAKEUP.size):
                fd, _ = _WAKEUP.unpack(caller.read(argument + uapi.DEVICE_FEATURE.size, _WAKEUP.size))
                if fd < 0:
                    raise Errno(errno.EINVAL)
                device.enter_low_power(caller.eventfd(fd))
        case uapi.VFIO_DEVICE_FEATURE_LOW_POWER_EXIT:
            if _sets(flags, size, 0):
                device.leave_low_power()
        case uapi.VFIO_DEVICE_FEATURE_MIG_PRECOPY_INFOv2:
            raise Errno(errno.EINVAL)  # the kernel checks here first whether the device can migrate at all
        case _:
            raise Errno(errno.ENOTTY)
    return 0


def _sets(flags: int, size: int, minimum: int) -> bool:
    """Returns whether to set a feature that can only be set; False: it was probed.

    Raises Errno(EINVAL) for GET, for neither SET nor PROBE, and for less than `minimum` bytes of data.
    """
    if flags & uapi.VFIO_DEVICE_FEATURE_GET:
        raise Errno(errno.EINVAL)
    if flags & uapi.VFIO_DEVICE_FEATURE_PROBE:
        return False
    if not flags & uapi.VFIO_DEVICE_FEATURE_SET or size - uapi.DEVICE_FEATURE.size < minimum:
        raise Errno(errno.EINVAL)
    return True


def _read_feature(argument: int, caller: DeviceCaller) -> tuple[int, int]:
    """Returns argsz and flags. Raises Errno(EINVAL) for unknown flags, and for GET with SET without PROBE."""
    size, flags = argsz.read(caller, argument, uapi.DEVICE_FEATURE)
    both = uapi.VFIO_DEVICE_FEATURE_GET | uapi.VFIO_DEVICE_FEATURE_SET
    probe = flags & uapi.VFIO_DEVICE_FEATURE_PROBE
    if flags & ~(uapi.VFIO_DEVICE_FEATURE_MASK | both | uapi.VFIO_DEVICE_FEATURE_PROBE):
        raise Errno(errno.EINVAL)
    if not probe and flags & both == both:
        raise Errno(errno.EINVAL)
    return size, flags


def pread(device: VfioDevice, offset: int, length: int) -> bytes:
    """Reads from a region.

    Raises Errno: EINVAL outside of the regions, EFAULT beyond configuration space, EIO with memory off.
    """
    index, position = _locate(device, offset)
    if not length:
        return b""
    hardware = device.function.device
    if index == uapi.VFIO_PCI_CONFIG_REGION_INDEX:
        return hardware.config.read(position, length)
    bar, length = _access(hardware, index, position, length)
    hardware.step()
    data = bar.read(position, length)
    first, last = _hidden(hardware, index, position, length)
    return data[:first] + b"\xff" * (last - first) + data[last:]


def pwrite(device: VfioDevice, offset: int, data: bytes) -> int:
    """Writes to a region, and returns the number of bytes. Raises the errnos of `pread`."""
    index, position = _locate(device, offset)
    if not data:
        return 0
    hardware = device.function.device
    if index == uapi.VFIO_PCI_CONFIG_REGION_INDEX:
        if hardware.config.write(position, data) and device.reset_works:
            device.reset()
        return len(data)
    bar, length = _access(hardware, index, position, len(data))
    first, last = _hidden(hardware, index, position, length)
    bar.write(position, data[:first])
    bar.write(position + last, data[last:length])
    hardware.step()
    return length


def mmap(device: VfioDevice, offset: int, length: int) -> None:
    """Notes that a process maps a BAR. Raises Errno(EINVAL) for a range that is not whole pages of one."""
    index, position = _locate(device, offset)
    bars = device.function.device.bars
    if not device.around.can_map or index >= len(bars):
        raise Errno(errno.EINVAL)
    if position + -(-length // PAGE) * PAGE > bars[index].size:
        raise Errno(errno.EINVAL)
    device.mapped = True


def _locate(device: VfioDevice, offset: int) -> tuple[int, int]:
    """Returns (region, offset in it)."""
    if device.frozen:
        raise Errno(errno.EIO)
    index = offset >> uapi.PCI_OFFSET_SHIFT
    if not 0 <= index < uapi.VFIO_PCI_NUM_REGIONS:
        raise Errno(errno.EINVAL)
    return index, offset & _OFFSET_MASK


def _access(hardware: Device, index: int, position: int, length: int) -> tuple[Memory, int]:
    """Returns a BAR, and the number of bytes from `position` on that an access covers."""
    if index >= len(hardware.bars) or position >= hardware.bars[index].size:
        raise Errno(errno.EINVAL)
    if not hardware.config.memory_enabled:
        raise Errno(errno.EIO)
    bar = hardware.bars[index]
    return bar, min(length, bar.size - position)


def _hidden(hardware: Device, index: int, position: int, length: int) -> tuple[int, int]:
    """Returns the part of an access that falls on the MSI-X table, which users neither read nor write this way."""
    if index or not hardware.description.msix:
        return length, length
    end = MSIX_TABLE + 16 * hardware.description.msix
    first = min(max(MSIX_TABLE - position, 0), length)
    return first, max(first, min(end - position, length))
