"""Open files of a VFIO device: from /dev/vfio/devices/vfioN, from its group, or retrieved after a live update.

They differ in how access is got: a file of the first and third kind must be bound to an iommufd, one of the second has
it from the start. Then all pass on to `pci_core.py`. The order of checks is drivers/vfio/device_cdev.c's.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

from luod.emulator.model.ports import Errno, Kind
from luod.emulator.model.vfio import argsz
from luod.emulator.model.vfio.files import Mapping, ModelFile
from luod.emulator.model.vfio.iommu.iommufd import IommufdFile
from luod.emulator.model.vfio.ports import DeviceCaller
from luod.emulator.model.vfio.vfio_pci.pci_core import VfioDevice
from luod.uapi import vfio as uapi

if TYPE_CHECKING:
    from luod.emulator.model.vfio.legacy.group import GroupFile

_BIND_MINIMUM: Final = 16
_ATTACH_MINIMUM: Final = 12
_DETACH_MINIMUM: Final = 8
_UUID: Final = 16


class VfioDeviceFile(ModelFile):
    """`group` for one that came from GET_DEVICE_FD, which keeps that file open. Each counts as a file of the device."""

    kind = Kind.VFIO_DEVICE

    def __init__(self, device: VfioDevice, *, link: bytes, group: GroupFile | None = None) -> None:
        super().__init__()
        self.device = device
        self.group = group
        self.link = link
        self._has_access = False
        device.files += 1

    @property
    def has_access(self) -> bool:
        """Bound to an iommufd, or had from a group."""
        return self._has_access

    def open_from_group(self) -> None:
        """Access, by way of the group's container or iommufd. EINVAL while it has neither; then it is still closed."""
        assert self.group is not None, "had from a group"
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
        return self.device.ioctl(command, argument, caller)

    def pread(self, offset: int, length: int) -> bytes:
        self._need_access()
        return self.device.pread(offset, length)

    def pwrite(self, offset: int, data: bytes) -> int:
        self._need_access()
        return self.device.pwrite(offset, data)

    def mmap(self, offset: int, length: int, *, writable: bool) -> Mapping:
        self._need_access()
        return self.device.mmap(offset, length)

    def _need_access(self) -> None:
        if not self._has_access:
            raise Errno(errno.EINVAL)

    def _bind(self, argument: int, caller: DeviceCaller) -> int:
        """EFAULT, EINVAL, E2BIG, EBUSY (the group is open), EACCES (token), EBADF, EBADFD, EPERM (somebody else's)."""
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
            bound = iommufd.context.bind(device.function, iommufd)
        finally:
            iommufd.close()
        try:
            # Asked before the device is enabled, which resets it.
            argsz.write(caller, argument, layout, (size, flags, fd, bound.number, token_address), _BIND_MINIMUM)
        except Errno:
            bound.unbind()
            raise
        device.bound = bound
        device.opens = 1
        device.enable()
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
        """EINVAL, EOPNOTSUPP (a PASID), ENOENT, and what the page table says."""
        layout = uapi.DEVICE_ATTACH_IOMMUFD_PT
        size, flags, number, pasid = argsz.read(caller, argument, layout, _ATTACH_MINIMUM)
        if flags & ~uapi.VFIO_DEVICE_ATTACH_PASID:
            raise Errno(errno.EINVAL)
        if flags:
            raise Errno(errno.EOPNOTSUPP)
        assert self.device.bound is not None, "this file bound it"
        attached = self.device.bound.attach(number)
        try:
            argsz.write(caller, argument, layout, (size, flags, attached, pasid), _ATTACH_MINIMUM)
        except Errno:
            self.device.bound.detach()
            raise
        return 0

    def _detach(self, argument: int, caller: DeviceCaller) -> int:
        layout = uapi.DEVICE_DETACH_IOMMUFD_PT
        _, flags, _ = argsz.read(caller, argument, layout, _DETACH_MINIMUM)
        if flags & ~uapi.VFIO_DEVICE_DETACH_PASID:
            raise Errno(errno.EINVAL)
        if flags:
            raise Errno(errno.EOPNOTSUPP)
        assert self.device.bound is not None, "this file bound it"
        self.device.bound.detach()
        return 0
