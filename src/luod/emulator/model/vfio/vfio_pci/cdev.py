"""Open files of a VFIO device: from /dev/vfio/devices/vfioN, from its group, or retrieved after a live update.

They differ in how a file gets access. A file of the first or third kind must be bound to an iommufd. A file of the
second kind has access from the start. `calls.py` then answers. The order of checks is that of
drivers/vfio/device_cdev.c of Linux 7.3.
"""

from __future__ import annotations

import errno
from typing import Final, Protocol

from luod.emulator.model.ports import Errno, Kind
from luod.emulator.model.vfio import argsz
from luod.emulator.model.vfio.files import ModelFile
from luod.emulator.model.vfio.iommu.iommufd import IommufdFile
from luod.emulator.model.vfio.ports import DeviceCaller
from luod.emulator.model.vfio.vfio_pci import calls
from luod.emulator.model.vfio.vfio_pci.pci_core import VfioDevice
from luod.uapi import vfio as uapi

_BIND_MINIMUM: Final = 16
_ATTACH_MINIMUM: Final = 12
_DETACH_MINIMUM: Final = 8
_UUID: Final = 16


class OpenGroup(Protocol):
    """The open file of a group, as a device file from it sees it (`legacy.group`)."""

    def use(self, device: VfioDevice) -> None:
        """Gives a file of `device` access. Raises Errno: EINVAL without container or iommufd, EPERM, ENODEV."""
        ...

    def unuse(self, device: VfioDevice) -> None:
        """Ends the access of one file. The last one disables the device."""
        ...


class VfioDeviceFile(ModelFile):
    """One open file of a device, of its `group` (GET_DEVICE_FD) or without one."""

    kind = Kind.VFIO_DEVICE

    def __init__(self, device: VfioDevice, *, link: bytes, group: OpenGroup | None = None) -> None:
        super().__init__()
        self.device = device
        self.group = group
        self.link = link
        self._has_access = False
        """Whether the file is bound to an iommufd, or came out of a group."""
        device.files += 1

    def open_from_group(self) -> None:
        """Gets access through the group's container or iommufd. Raises Errno(EINVAL) while the group has neither."""
        assert self.group is not None, "a group gave it out"
        self.group.use(self.device)
        self._has_access = True

    def _release(self) -> None:
        device = self.device
        if self._has_access:
            if self.group is not None:
                self.group.unuse(device)
            else:
                self._unbind()
        device.files -= 1
        device.released()

    def ioctl(self, command: int, argument: int, caller: DeviceCaller) -> int:
        if command == uapi.VFIO_DEVICE_BIND_IOMMUFD:
            return self._bind(argument, caller)
        self._need_access()
        if self.group is None:
            if command == uapi.VFIO_DEVICE_ATTACH_IOMMUFD_PT:
                return self._attach(argument, caller)
            if command == uapi.VFIO_DEVICE_DETACH_IOMMUFD_PT:
                return self._detach(argument, caller)
        self.device.function.device.step()
        return calls.ioctl(self.device, command, argument, caller)

    def pread(self, offset: int, length: int) -> bytes:
        self._need_access()
        return calls.pread(self.device, offset, length)

    def pwrite(self, offset: int, data: bytes) -> int:
        self._need_access()
        return calls.pwrite(self.device, offset, data)

    def mmap(self, offset: int, length: int) -> None:
        self._need_access()
        calls.mmap(self.device, offset, length)

    def _need_access(self) -> None:
        if not self._has_access:
            raise Errno(errno.EINVAL)

    def _bind(self, argument: int, caller: DeviceCaller) -> int:
        """Binds the file to an iommufd.

        Raises Errno: EFAULT, EINVAL, E2BIG, EBUSY (the group is open), EACCES (token), EBADF, EBADFD, EPERM (another
        owner), EAGAIN (an unbind waits).
        """
        layout = uapi.DEVICE_BIND_IOMMUFD
        values = argsz.read_extensible(caller, argument, layout, _BIND_MINIMUM)
        size, flags, fd, _, token_address = values
        if fd < 0 or flags & ~uapi.VFIO_DEVICE_BIND_FLAG_TOKEN:
            raise Errno(errno.EINVAL)
        device = self.device
        if self.group is not None:
            raise Errno(errno.EINVAL)
        if device.function.group.file is not None:
            raise Errno(errno.EBUSY)
        if self._has_access:
            raise Errno(errno.EINVAL)
        asks_token = flags & uapi.VFIO_DEVICE_BIND_FLAG_TOKEN
        device.check_token(caller.read(token_address, _UUID) if asks_token else None)
        iommufd = caller.file(fd)
        if not isinstance(iommufd, IommufdFile):
            iommufd.close()
            raise Errno(errno.EBADFD)
        try:
            if device.opens:
                raise Errno(errno.EINVAL)
            bound = iommufd.context.bind(device.function.device, device.function.group, iommufd)
        finally:
            iommufd.close()
        try:
            # Checked before the device is enabled, which resets it.
            argsz.write(caller, argument, layout, (size, flags, fd, bound.number, token_address), _BIND_MINIMUM)
            device.enable()
        except Errno:
            bound.unbind()
            raise
        device.bound = bound
        device.opens = 1
        device.cdev_bound = True
        device.function.group.cdevs_bound += 1
        self._has_access = True
        return 0

    def _unbind(self) -> None:
        device = self.device
        assert device.bound is not None, "this file bound it"
        device.opens = 0
        device.disable()
        device.bound.unbind()
        device.bound = None
        device.cdev_bound = False
        device.function.group.cdevs_bound -= 1

    def _attach(self, argument: int, caller: DeviceCaller) -> int:
        """Attaches the device. Raises Errno: EINVAL, ENOENT, EBUSY, ENOSPC, and those of the page table."""
        layout = uapi.DEVICE_ATTACH_IOMMUFD_PT
        size, flags, number, pasid = argsz.read(caller, argument, layout, _ATTACH_MINIMUM)
        if flags & ~uapi.VFIO_DEVICE_ATTACH_PASID:
            raise Errno(errno.EINVAL)
        bound = self.device.bound
        assert bound is not None, "this file bound it"
        if flags:
            size, flags, number, pasid = argsz.read(caller, argument, layout)
            attached = bound.attach_pasid(number, pasid)
        else:
            attached = bound.attach(number)
        try:
            argsz.write(caller, argument, layout, (size, flags, attached, pasid), _ATTACH_MINIMUM)
        except Errno:
            bound.detach()  # as the kernel does, which leaves it attached where it is with a PASID
            raise
        return 0

    def _detach(self, argument: int, caller: DeviceCaller) -> int:
        """Detaches the device. Raises Errno(EINVAL)."""
        layout = uapi.DEVICE_DETACH_IOMMUFD_PT
        _, flags, _ = argsz.read(caller, argument, layout, _DETACH_MINIMUM)
        if flags & ~uapi.VFIO_DEVICE_DETACH_PASID:
            raise Errno(errno.EINVAL)
        bound = self.device.bound
        assert bound is not None, "this file bound it"
        if flags:
            bound.detach_pasid(argsz.read(caller, argument, layout)[2])
        else:
            bound.detach()
        return 0
