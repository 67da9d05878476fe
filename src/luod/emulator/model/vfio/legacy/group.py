"""/dev/vfio/N and /dev/vfio/vfio: groups, the containers into which they are put, and the devices of a group.

In this older interface a group has one open file, gets a container (or an iommufd in its place), and gives fds of its
devices. It follows drivers/vfio/group.c and container.c of Linux 7.3. The mappings of a container are in `type1.py`.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Callable
from typing import Final

from luod.emulator.model.ports import PAGE, Errno, Kind
from luod.emulator.model.vfio import argsz
from luod.emulator.model.vfio.files import ModelFile
from luod.emulator.model.vfio.iommu.group import IommuGroup
from luod.emulator.model.vfio.iommu.iommufd import IommufdFile
from luod.emulator.model.vfio.iommu.locked import LockedMemory
from luod.emulator.model.vfio.iommu.vfio_info import EXTENSIONS
from luod.emulator.model.vfio.legacy.type1 import Type1
from luod.emulator.model.vfio.ports import DeviceCaller
from luod.emulator.model.vfio.vfio_pci.cdev import VfioDeviceFile
from luod.emulator.model.vfio.vfio_pci.pci_core import VfioDevice, VfioDevices
from luod.uapi import vfio as uapi

_I32: Final = 4
_TOKEN: Final = re.compile(r"vf_token=([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})", re.ASCII | re.IGNORECASE)


class ContainerFile(ModelFile):
    """/dev/vfio/vfio. It exists while a group is in it, even when no process has its file open."""

    kind = Kind.VFIO_CONTAINER
    link = b"/dev/vfio/vfio"

    def __init__(self, locked: LockedMemory) -> None:
        super().__init__()
        self._locked = locked
        self.groups: list[IommuGroup] = []
        self.iommu: Type1 | None = None

    def _release(self) -> None:
        """Does nothing: no group is in it, since each holds a reference."""

    def abandon(self) -> None:
        if self.iommu is not None:
            self.iommu.close()

    def ioctl(self, command: int, argument: int, caller: DeviceCaller) -> int:
        match command:
            case uapi.VFIO_GET_API_VERSION:
                return uapi.VFIO_API_VERSION
            case uapi.VFIO_CHECK_EXTENSION:
                return int(argument in EXTENSIONS or (argument == uapi.VFIO_DMA_CC_IOMMU and self.iommu is not None))
            case uapi.VFIO_SET_IOMMU:
                return self._set_iommu(argument)
        if self.iommu is None:
            raise Errno(errno.EINVAL)
        return self.iommu.ioctl(command, argument, caller)

    def _set_iommu(self, kind: int) -> int:
        """Sets the IOMMU. Raises Errno: EINVAL without a group, or when it is set; ENODEV for an unknown kind."""
        if not self.groups or self.iommu is not None:
            raise Errno(errno.EINVAL)
        if kind not in EXTENSIONS:
            raise Errno(errno.ENODEV)
        if kind not in (uapi.VFIO_TYPE1_IOMMU, uapi.VFIO_TYPE1v2_IOMMU):
            raise Errno(errno.EINVAL)
        self.iommu = Type1(self._locked, exact_unmaps=kind == uapi.VFIO_TYPE1v2_IOMMU)
        return 0

    def add(self, group: IommuGroup) -> None:
        """Puts `group` into the container, which takes a reference for it."""
        self.reference()
        self.groups.append(group)

    def remove(self, group: IommuGroup) -> None:
        """Takes `group` out. The last group takes the mappings with it."""
        self.groups.remove(group)
        if not self.groups and self.iommu is not None:
            self.iommu.close()
            self.iommu = None
        self.close()


class GroupFile(ModelFile):
    """The one open file of /dev/vfio/N. Implements `cdev.OpenGroup`.

    An open device of a group in a container keeps the file open. With an iommufd in its place it does not.
    """

    kind = Kind.VFIO_GROUP

    def __init__(self, group: IommuGroup, devices: VfioDevices, incoming: Callable[[VfioDevice], bool]) -> None:
        """`incoming` returns whether a live update has not returned the device yet.

        Raises Errno(EBUSY) while another file of the group, or a bound character device, is open.
        """
        if group.cdevs_bound or group.file is not None:
            raise Errno(errno.EBUSY)
        super().__init__()
        self.link = b"/dev/vfio/%d" % group.number
        self._group = group
        self._devices = devices
        self._incoming = incoming
        self._container: ContainerFile | None = None
        self._iommufd: IommufdFile | None = None
        self._devices_open = 0
        group.file = self

    def _release(self) -> None:
        self._leave()
        self._group.file = None

    def ioctl(self, command: int, argument: int, caller: DeviceCaller) -> int:
        match command:
            case uapi.VFIO_GROUP_GET_DEVICE_FD:
                return self._get_device(argument, caller)
            case uapi.VFIO_GROUP_GET_STATUS:
                return self._get_status(argument, caller)
            case uapi.VFIO_GROUP_SET_CONTAINER:
                return self._set_container(argument, caller)
            case uapi.VFIO_GROUP_UNSET_CONTAINER:
                return self._unset_container()
        raise Errno(errno.ENOTTY)

    def _get_status(self, argument: int, caller: DeviceCaller) -> int:
        layout = uapi.GROUP_STATUS
        size, _ = argsz.read(caller, argument, layout)
        flags = 0
        if self._container is not None or self._iommufd is not None:
            flags = uapi.VFIO_GROUP_FLAGS_CONTAINER_SET | uapi.VFIO_GROUP_FLAGS_VIABLE
        elif not self._group.claimed:
            flags = uapi.VFIO_GROUP_FLAGS_VIABLE
        argsz.write(caller, argument, layout, (size, flags), layout.size)
        return 0

    def _set_container(self, argument: int, caller: DeviceCaller) -> int:
        """Sets the container.

        Raises Errno: EFAULT, EBADF, EINVAL (it has one), EPERM (the group is not viable), EBADFD (the fd is not a
        container).
        """
        fd = int.from_bytes(caller.read(argument, _I32), "little", signed=True)
        file = caller.file(fd)
        try:
            if self._container is not None or self._iommufd is not None:
                raise Errno(errno.EINVAL)
            if isinstance(file, ContainerFile):
                self._group.claim(self)
                file.add(self._group)
                self._container = file
            elif isinstance(file, IommufdFile):
                file.context.make_compatible()
                self._iommufd = file.reference()
            else:
                raise Errno(errno.EBADFD)
        finally:
            file.close()
        return 0

    def _unset_container(self) -> int:
        """Removes the container.

        Raises Errno: EINVAL without a container, EBUSY while a device of the group is open.
        """
        if self._container is None and self._iommufd is None:
            raise Errno(errno.EINVAL)
        if self._container is not None and self._devices_open:
            raise Errno(errno.EBUSY)
        self._leave()
        return 0

    def _leave(self) -> None:
        if self._container is not None:
            self._group.unclaim()
            self._container.remove(self._group)
            self._container = None
        if self._iommufd is not None:
            self._iommufd.close()
            self._iommufd = None

    def _get_device(self, argument: int, caller: DeviceCaller) -> int:
        """Returns an fd of a device.

        Raises Errno: EFAULT, ENODEV (of another group), EBUSY (not retrieved), EINVAL (no container).
        """
        name, _, options = _read_name(argument, caller).decode("latin-1").partition(" ")
        devices = self._devices.of_group(self._group)
        device = next((each for each in devices if str(each.function.address) == name), None)
        if device is None:
            raise Errno(errno.ENODEV)
        device.check_token(_token(options))
        if not caller.has_free_fd():
            raise Errno(errno.EMFILE)
        if self._incoming(device):
            raise Errno(errno.EBUSY)
        file = VfioDeviceFile(device, link=b"anon_inode:[vfio-device]", group=self)
        try:
            file.open_from_group()
            return caller.install(file, True)
        finally:
            file.close()

    def use(self, device: VfioDevice) -> None:
        """Gives a file of `device` access. Raises Errno: EINVAL without container or iommufd, EPERM, ENODEV, EAGAIN."""
        if self._container is not None:
            if self._container.iommu is None:
                raise Errno(errno.EINVAL)
        elif self._iommufd is None:
            raise Errno(errno.EINVAL)
        if not device.opens:
            if self._container is not None and self._container.iommu is not None:
                device.enable()
                device.function.device.dma = self._container.iommu.space
            elif self._iommufd is not None:
                context = self._iommufd.context
                bound = context.bind(device.function.device, device.function.group, self._iommufd)
                try:
                    bound.attach(context.number_of(context.compatible))
                    device.enable()
                except Errno:
                    bound.unbind()
                    raise
                device.bound = bound
        device.opens += 1
        if self._container is not None:
            self._devices_open += 1
            self.reference()

    def unuse(self, device: VfioDevice) -> None:
        """Ends the access of one file. The last one disables the device."""
        device.opens -= 1
        if not device.opens:
            device.disable()
            if device.bound is not None:
                device.bound.unbind()
                device.bound = None
        if self._container is not None:
            self._devices_open -= 1
            self.close()


def _read_name(address: int, caller: DeviceCaller) -> bytes:
    """Returns a string as strndup_user does. Raises Errno(EINVAL) when a page has no NUL."""
    name = b""
    while len(name) < PAGE:
        # A string may end right before the end of the memory.
        chunk = caller.read(address + len(name), min(32, PAGE - (address + len(name)) % PAGE))
        end = chunk.find(b"\0")
        if end >= 0:
            return name + chunk[:end]
        name += chunk
    raise Errno(errno.EINVAL)


def _token(options: str) -> bytes | None:
    """Returns the UUID in `vf_token=UUID`, the only option after a device's name. Raises Errno(EINVAL) for others."""
    token: bytes | None = None
    for option in filter(None, options.split(" ")):
        found = _TOKEN.fullmatch(option)
        if token is not None or found is None:
            raise Errno(errno.EINVAL)
        token = bytes.fromhex(found[1].replace("-", ""))
    return token
