"""Reset of a whole bus: VFIO_DEVICE_GET_PCI_HOT_RESET_INFO and VFIO_DEVICE_PCI_HOT_RESET.

A user must own every device that is reset.
"""

from __future__ import annotations

import errno
import struct
from typing import Final

from luod.emulator.model.ports import Errno, Kind
from luod.emulator.model.vfio import argsz
from luod.emulator.model.vfio.function import Function
from luod.emulator.model.vfio.ports import DeviceCaller
from luod.emulator.model.vfio.vfio_pci.pci_core import VfioDevice
from luod.uapi import vfio as uapi

_FD: Final = struct.Struct("=i")


def _bus(device: VfioDevice) -> list[Function]:
    """Returns every function on the device's bus. Raises Errno(ENODEV) on the root bus, which cannot be reset."""
    function = device.function
    if function.port is None:
        raise Errno(errno.ENODEV)
    return function.port.functions


def _number(function: Function, device: VfioDevice) -> int:
    """Returns the number of `function` for the iommufd of `device`: an id, owned through its group, or not owned."""
    assert device.bound is not None, "a bound character device asks"
    other = device.around.devices.of(function)
    if other is None:
        return uapi.VFIO_PCI_DEVID_NOT_OWNED
    if other.bound is not None and other.bound.context is device.bound.context:
        return other.bound.number
    owned = function.group.owner is device.bound.context
    return uapi.VFIO_PCI_DEVID_OWNED if owned else uapi.VFIO_PCI_DEVID_NOT_OWNED


def get_info(device: VfioDevice, argument: int, caller: DeviceCaller) -> int:
    """Lists the devices that a reset would reach. Raises Errno(ENOSPC), with the count, when the array is too short."""
    layout, entry = uapi.PCI_HOT_RESET_INFO, uapi.PCI_DEPENDENT_DEVICE
    size, _, _ = argsz.read(caller, argument, layout)
    functions = _bus(device)
    if len(functions) > (size - layout.size) // entry.size:
        argsz.write(caller, argument, layout, (size, 0, len(functions)), layout.size)
        raise Errno(errno.ENOSPC)
    flags = 0
    numbers = [function.group.number for function in functions]
    if device.cdev_bound:
        flags = uapi.VFIO_PCI_HOT_RESET_FLAG_DEV_ID
        numbers = [_number(function, device) for function in functions]
        if uapi.VFIO_PCI_DEVID_NOT_OWNED not in numbers:
            flags |= uapi.VFIO_PCI_HOT_RESET_FLAG_DEV_ID_OWNED
    content = b"".join(
        entry.pack(number, function.address.domain, function.address.bus, function.address.devfn)
        for number, function in zip(numbers, functions, strict=True)
    )
    caller.write(argument + layout.size, content)
    argsz.write(caller, argument, layout, (size, flags, len(functions)), layout.size)
    return 0


def reset(device: VfioDevice, argument: int, caller: DeviceCaller) -> int:
    """Resets the bus.

    Raises Errno: EINVAL for a device on it that the caller does not own; EBADF, EINVAL for an fd that is not a group's;
    EAGAIN while a request waits that holds the lock of a device there.
    """
    layout = uapi.PCI_HOT_RESET
    _, flags, count = argsz.read(caller, argument, layout)
    if flags or bool(count) == device.cdev_bound:
        raise Errno(errno.EINVAL)
    functions = _bus(device)
    if count > len(functions):
        raise Errno(errno.EINVAL)
    groups: list[object] = []
    for (fd,) in _FD.iter_unpack(caller.read(argument + layout.size, count * _FD.size)):
        file = caller.file(fd)
        groups.append(file.identity)
        is_group = file.kind is Kind.VFIO_GROUP
        file.close()
        if not is_group:
            raise Errno(errno.EINVAL)
    others: list[VfioDevice] = []
    for function in functions:
        other = device.around.devices.of(function)
        if other is None:
            raise Errno(errno.EINVAL)  # another driver has it, or no driver: the caller does not own it
        others.append(other)
        owned = (
            _number(function, device) != uapi.VFIO_PCI_DEVID_NOT_OWNED
            if device.cdev_bound
            else function.group.file in groups
        )
        if not owned:
            raise Errno(errno.EINVAL)
    if any(function.locked for function in functions):
        raise Errno(errno.EAGAIN)
    for other in others:
        other.reset_with_bus()
    return 0
