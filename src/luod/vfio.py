"""A VFIO device on both sides of a live update: its driver, its file, its iommufd, its interrupts.

This is not a VFIO library: regions, DMA maps and eventfds are the VMM's. Preserving and retrieving are in
`luod.liveupdate`. docs/vfio.md shows the sequence. Sources: linux/vfio.h, and v2 and v5 of the posted VFIO live update
series (docs/kernel.md, 12); no released kernel has it.

Before the kexec                            After it
    bind_driver, open_device                    bind_driver                 before RETRIEVE_FD, or the device is lost
    open_iommufd, bind, attach, map memory      session.retrieve            the device's file
    session.preserve: memory, then device       open_iommufd, bind, attach, map memory again
    quiesce                                     session.finish, then interrupts on again
"""

from __future__ import annotations

import enum
import errno
import fcntl
import os

from luod import pci
from luod.errors import KernelRefused, VfioDeviceFrozen
from luod.linux import Fd
from luod.static import TYPE_CHECKING, Final
from luod.uapi import iommufd as iommufd_uapi
from luod.uapi import vfio as uapi

if TYPE_CHECKING:
    import struct

    from luod.linux import HasFileno

__all__ = [  # noqa: RUF022 - in the order of their use
    "bind_driver",
    "open_device",
    "open_iommufd",
    "bind",
    "attach",
    "new_address_space",
    "preservation_order",
    "quiesce",
    "State",
    "state",
    "revive",
]

_PROBE: Final = "/sys/bus/pci/drivers_probe"
_INTERRUPTS: Final = (uapi.VFIO_PCI_INTX_IRQ_INDEX, uapi.VFIO_PCI_MSI_IRQ_INDEX, uapi.VFIO_PCI_MSIX_IRQ_INDEX)
"""Interrupts that fail the kexec. The error and request eventfds do not."""


def bind_driver(address: str, driver: str = pci.VFIO_PCI) -> str:
    """Binds vfio-pci to the device at `address`, and sets it as its only driver until the next boot.

    Returns the device's path in /dev/vfio. It writes driver_override, unbinds another driver, uses drivers_probe. It
    needs root. For a device that vfio-pci has, it does nothing. After a live update no device is bound, and the host's
    own driver can take a preserved device: let user space do this first of all.

    An unbind waits, uninterruptibly, until the last file of the device is closed. Never unbind a preserved device: the
    session has it open, and a kexec meanwhile hangs.

    Raises BadInput: not a PCI address. Raises KernelRefused: ENOENT (no such device, or no driver of that name),
    EACCES, and ENODEV when the driver did not accept the device.
    """
    address = pci.check_address(address)
    folder = f"{pci.DEVICES}/{address}"
    if pci.driver_of(address) != driver:
        if not os.path.isdir(f"{pci.DRIVERS}/{driver}"):
            raise KernelRefused(errno.ENOENT, f"bind {address}", f"there is no driver {driver}", hint=_LOAD_DRIVER)
        _store(f"{folder}/driver_override", driver)
        if pci.driver_of(address) is not None:
            _store(f"{folder}/driver/unbind", address)
        _store(_PROBE, address)
    node = pci.vfio_node(address)
    if node is None:
        raise KernelRefused(errno.ENODEV, f"bind {address}", f"{driver} did not take the device", hint=_LOAD_DRIVER)
    return f"{uapi.DEVICES}/{node}"


_LOAD_DRIVER: Final = "modprobe vfio-pci, and look at the kernel's log; the machine needs an IOMMU that is on"


def open_device(address: str) -> Fd:
    """Returns the device's file in /dev/vfio/devices; the caller owns it. It answers once it is bound (`bind`).

    Only such a file can be preserved, not one of VFIO_GROUP_GET_DEVICE_FD. Raises BadInput: not a PCI address. Raises
    KernelRefused: ENODEV (no VFIO driver has the device), EACCES, EBUSY: it is in an incoming session that is not
    finished; retrieve it from there.
    """
    address = pci.check_address(address)
    node = pci.vfio_node(address)
    if node is None:
        raise KernelRefused(errno.ENODEV, f"open {address}", "no VFIO driver has the device", hint=_BIND_FIRST)
    return _open(f"{uapi.DEVICES}/{node}", _OPEN)


_BIND_FIRST: Final = "luod.vfio.bind_driver first"
_OPEN: Final = {errno.EBUSY: "the device came over a live update, and its session is not finished"}


def open_iommufd() -> Fd:
    """Returns a new context of /dev/iommu; the caller owns it.

    Raises KernelRefused: ENOENT (not in this kernel), EACCES.
    """
    return _open(iommufd_uapi.DEVICE, {errno.ENOENT: "this kernel has no iommufd"})


def bind(device: int | HasFileno, iommufd: int | HasFileno) -> int:
    """Binds the device to the iommufd, and returns its id in the context: VFIO_DEVICE_BIND_IOMMUFD.

    The device answers from now on. It stays bound until the last reference to its file is closed, the session's
    included. After a live update FINISH requires this. The device is reset here, except the first time after a kexec
    under v2's rules.

    Raises KernelRefused: EINVAL (bound already, by this or another file, or from a group), EBUSY (its group is open),
    EBADFD (not an iommufd), EACCES (a VF without its token), EPERM (a driver has another device of its group), EAGAIN
    (an unbind of it has begun, and waits for its files; the device cannot be bound again, nor its session finished).
    """
    layout = uapi.DEVICE_BIND_IOMMUFD
    values = _call("VFIO_DEVICE_BIND_IOMMUFD", device, layout, 0, _fd(iommufd), 0, 0)
    return int(values[3])


def new_address_space(iommufd: int | HasFileno) -> int:
    """Returns the id of a new I/O address space in the context: IOMMU_IOAS_ALLOC. Raises KernelRefused: ENOMEM."""
    return int(_call("IOMMU_IOAS_ALLOC", iommufd, iommufd_uapi.IOAS_ALLOC, 0, 0)[2])


def attach(device: int | HasFileno, page_table: int) -> None:
    """Attaches the device to `page_table`, the id of an address space or HWPT: VFIO_DEVICE_ATTACH_IOMMUFD_PT.

    The device's DMA uses it. A live update keeps neither this nor the mappings: attach and map again in the next
    kernel. Raises KernelRefused: EINVAL (not bound), ENOENT (no such id in its context).
    """
    _call("VFIO_DEVICE_ATTACH_IOMMUFD_PT", device, uapi.DEVICE_ATTACH_IOMMUFD_PT, 0, page_table, 0)


def preservation_order(file: int | HasFileno) -> int:
    """Returns a key for sorted(): memory first, then iommufds, then devices.

    A kernel that preserves page tables requires that order in one session (ENOENT otherwise); other kernels accept any.
    """
    link = pci.link_of(_fd(file))
    if os.path.basename(link).lstrip(".") == "iommu":
        return 1
    return 2 if link.startswith(f"{uapi.DEVICES}/") or "[vfio-device" in link else 0


def quiesce(device: int | HasFileno) -> tuple[int, ...]:
    """Turns the device's interrupts off. Returns the VFIO_PCI_*_IRQ_INDEX that were on, to be set up again later.

    Use it after the guest's vCPUs have stopped and right before the kexec: with interrupts on, reboot(2) fails with
    EINVAL. The device must be in D0 too (v5); the VMM writes its PM registers. Signals raised before stay readable in
    the eventfds. Raises VfioDeviceFrozen: EIO. Raises KernelRefused: EINVAL, not bound to an iommufd.
    """
    found = []
    for index in _INTERRUPTS:
        if not _call("VFIO_DEVICE_GET_IRQ_INFO", device, uapi.IRQ_INFO, 0, index, 0)[3]:
            continue
        flags = uapi.VFIO_IRQ_SET_DATA_NONE | uapi.VFIO_IRQ_SET_ACTION_TRIGGER
        try:
            _call("VFIO_DEVICE_SET_IRQS", device, uapi.IRQ_SET, flags, index, 0, 0)
        except KernelRefused as error:
            if error.errno != errno.EINVAL:  # EINVAL: they were off
                raise
        else:
            found.append(index)
    return tuple(found)


class State(enum.Enum):
    """The state of a device, from its file."""

    UNBOUND = "it is not bound to an iommufd"
    READY = "it can be used"
    FROZEN = "an update that did not happen has frozen it"


def state(device: int | HasFileno) -> State:
    """Returns the state of the device, for a VMM whose update was cancelled (docs/hazards.md, H22).

    Raises KernelRefused.

    READY says nothing of its registers: a reboot(2) that failed at a later device has reset this one under v2's rules.
    After a cancelled update a VMM sets its devices up again, in any state.
    """
    try:
        _call("VFIO_DEVICE_GET_INFO", device, uapi.DEVICE_INFO, 0, 0, 0, 0, 0)
    except VfioDeviceFrozen:
        return State.FROZEN
    except KernelRefused as error:
        if error.errno == errno.EINVAL:
            return State.UNBOUND
        raise
    return State.READY


def revive(address: str) -> str:
    """Unbinds a frozen device and binds its driver again, which ends `State.FROZEN`. Returns its path.

    It needs root. Close every file of the device, and the session that holds it, before; otherwise this waits for them,
    uninterruptibly. Raises the errors of `bind_driver`.
    """
    address = pci.check_address(address)
    driver = pci.driver_of(address)
    if driver is not None:
        _store(f"{pci.DEVICES}/{address}/driver/unbind", address)
    return bind_driver(address, driver or pci.VFIO_PCI)


_NUMBERS: Final = {
    "VFIO_DEVICE_BIND_IOMMUFD": uapi.VFIO_DEVICE_BIND_IOMMUFD,
    "VFIO_DEVICE_ATTACH_IOMMUFD_PT": uapi.VFIO_DEVICE_ATTACH_IOMMUFD_PT,
    "VFIO_DEVICE_GET_IRQ_INFO": uapi.VFIO_DEVICE_GET_IRQ_INFO,
    "VFIO_DEVICE_GET_INFO": uapi.VFIO_DEVICE_GET_INFO,
    "VFIO_DEVICE_SET_IRQS": uapi.VFIO_DEVICE_SET_IRQS,
    "IOMMU_IOAS_ALLOC": iommufd_uapi.IOMMU_IOAS_ALLOC,
}


_UNBINDING: Final = (
    "a process writes to `unbind`, or unloads the module, and waits until every file of the device is closed. A "
    "session with the device cannot be finished then: retrieve its other files, release it as given up, and close the "
    "device; do not kexec before the unbind has ended, since reboot(2) would never return (H27)"
)


def _call(name: str, file: int | HasFileno, layout: struct.Struct, *values: int) -> tuple[int, ...]:
    """Makes an ioctl with a structure that begins with its own size, and returns the structure afterwards."""
    argument = bytearray(layout.pack(layout.size, *values))
    try:
        fcntl.ioctl(_fd(file), _NUMBERS[name], argument)
    except OSError as error:
        code = error.errno or 0
        raise refusal(name, code) from None
    return tuple(layout.unpack(argument))


def refusal(name: str, code: int) -> KernelRefused:
    """Returns the error for errno `code` of the ioctl `name`."""
    if code == errno.EIO and name.startswith("VFIO_DEVICE"):
        return VfioDeviceFrozen(code, name, "the device was frozen by an update that did not happen")
    if code == errno.EAGAIN and name.startswith("VFIO_DEVICE"):
        return KernelRefused(code, name, "vfio-pci is being taken from the device", hint=_UNBINDING)
    return KernelRefused(code, name)


def _open(path: str, meanings: dict[int, str]) -> Fd:
    try:
        return Fd(os.open(path, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        code = error.errno or 0
        raise KernelRefused(code, f"open {path}", meanings.get(code, "")) from None


def _store(path: str, text: str) -> None:
    try:
        with open(path, "w", encoding="ascii") as file:
            file.write(text)
    except OSError as error:
        raise KernelRefused(error.errno or 0, f"write {path}") from None


def _fd(file: int | HasFileno) -> int:
    return file if isinstance(file, int) else file.fileno()
