"""What both sides of a live update need of a VFIO device: its driver, its file, its iommufd, its interrupts.

Not a VFIO library: regions, DMA maps and eventfds are the VMM's own. Not the preserving and retrieving either, which is
`luod.liveupdate`'s. The sequence is told in docs/vfio.md. Sources: linux/vfio.h, the documents of the
posted VFIO live update series, v2 and v5; no released kernel has it.

Before the jump                             After it
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
import struct
from pathlib import Path
from typing import Final

from luod import pci
from luod.errors import KernelRefused, VfioDeviceFrozen
from luod.linux import Fd, HasFileno
from luod.uapi import iommufd as iommufd_uapi
from luod.uapi import vfio as uapi

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

_PROBE: Final = Path("/sys/bus/pci/drivers_probe")
_INTERRUPTS: Final = (uapi.VFIO_PCI_INTX_IRQ_INDEX, uapi.VFIO_PCI_MSI_IRQ_INDEX, uapi.VFIO_PCI_MSIX_IRQ_INDEX)
"""Those that keep a machine from jumping. The error and request eventfds do not."""


def bind_driver(address: str, driver: str = pci.VFIO_PCI) -> str:
    """Gives the device at `address` to vfio-pci, and to no other driver until the next boot; its path in /dev/vfio.

    driver_override, unbind of another driver, drivers_probe. As root; again for a device that vfio-pci has, it does
    nothing. In the kernel after a live update nothing is bound, and nothing keeps the host's own driver from taking a
    preserved device: have user space do this first of all.

    An unbind waits, and cannot be interrupted, until the last file of the device is closed. Never unbind a preserved
    device: the session has it open, and a jump meanwhile hangs.

    BadInput: no PCI address. KernelRefused: ENOENT (no such device, or no driver of that name), EACCES, and ENODEV
    when the driver did not take the device.
    """
    address = pci.check_address(address)
    folder = pci.DEVICES / address
    if pci.driver_of(address) != driver:
        if not (pci.DRIVERS / driver).is_dir():
            raise KernelRefused(errno.ENOENT, f"bind {address}", f"there is no driver {driver}", hint=_LOAD_DRIVER)
        _store(folder / "driver_override", driver)
        if pci.driver_of(address) is not None:
            _store(folder / "driver" / "unbind", address)
        _store(_PROBE, address)
    node = pci.vfio_node(address)
    if node is None:
        raise KernelRefused(errno.ENODEV, f"bind {address}", f"{driver} did not take the device", hint=_LOAD_DRIVER)
    return f"{uapi.DEVICES}/{node}"


_LOAD_DRIVER: Final = "modprobe vfio-pci, and look at the kernel's log; the machine needs an IOMMU that is on"


def open_device(address: str) -> Fd:
    """The device's file in /dev/vfio/devices; the caller owns it. It answers nothing until it is bound (`bind`).

    Only such a file can be preserved, not one of VFIO_GROUP_GET_DEVICE_FD.
    BadInput: no PCI address. KernelRefused: ENODEV (no VFIO driver has the device), EACCES, EBUSY: it came over a live
    update and its session is not finished; retrieve it from there.
    """
    address = pci.check_address(address)
    node = pci.vfio_node(address)
    if node is None:
        raise KernelRefused(errno.ENODEV, f"open {address}", "no VFIO driver has the device", hint=_BIND_FIRST)
    return _open(f"{uapi.DEVICES}/{node}", _OPEN)


_BIND_FIRST: Final = "luod.vfio.bind_driver first"
_OPEN: Final = {errno.EBUSY: "the device came over a live update, and its session is not finished"}


def open_iommufd() -> Fd:
    """A new context of /dev/iommu; the caller owns it. KernelRefused: ENOENT (not in this kernel), EACCES."""
    return _open(iommufd_uapi.DEVICE, {errno.ENOENT: "this kernel has no iommufd"})


def bind(device: int | HasFileno, iommufd: int | HasFileno) -> int:
    """VFIO_DEVICE_BIND_IOMMUFD: the device answers from now on. Gives its id in the context.

    It stays bound until its file is closed for the last time, the session's reference included. After a live update
    this is what FINISH waits for. The device is reset here, but for the first time after a jump under v2's rules.
    KernelRefused: EINVAL (bound already, by this or another file, or had from a group), EBUSY (its group is open),
    EBADFD (no iommufd), EACCES (a VF without its token), EPERM (a driver has another device of its group), EAGAIN (an
    unbind of it has begun, and waits for its files; the device cannot be bound again, nor its session finished).
    """
    layout = uapi.DEVICE_BIND_IOMMUFD
    values = _call("VFIO_DEVICE_BIND_IOMMUFD", device, layout, 0, _fd(iommufd), 0, 0)
    return int(values[3])


def new_address_space(iommufd: int | HasFileno) -> int:
    """IOMMU_IOAS_ALLOC: the id of a new I/O address space in the context. KernelRefused: ENOMEM."""
    return int(_call("IOMMU_IOAS_ALLOC", iommufd, iommufd_uapi.IOAS_ALLOC, 0, 0)[2])


def attach(device: int | HasFileno, page_table: int) -> None:
    """VFIO_DEVICE_ATTACH_IOMMUFD_PT: the device's DMA goes through `page_table`, an address space's or HWPT's id.

    A live update does not keep this, nor what is mapped: attach and map again in the next kernel.
    KernelRefused: EINVAL (not bound), ENOENT (no such id in its context).
    """
    _call("VFIO_DEVICE_ATTACH_IOMMUFD_PT", device, uapi.DEVICE_ATTACH_IOMMUFD_PT, 0, page_table, 0)


def preservation_order(file: int | HasFileno) -> int:
    """A key for sorted(): memory first, then iommufds, then devices.

    A kernel that preserves page tables asks for that order in one session (ENOENT otherwise); the others do not mind.
    """
    link = pci.link_of(_fd(file))
    if os.path.basename(link).lstrip(".") == "iommu":
        return 1
    return 2 if link.startswith(f"{uapi.DEVICES}/") or "[vfio-device" in link else 0


def quiesce(device: int | HasFileno) -> tuple[int, ...]:
    """Turns the device's interrupts off; gives the VFIO_PCI_*_IRQ_INDEX that were on, to be set up again later.

    To be called after the guest's vCPUs have stopped and right before the jump: with interrupts on, reboot(2) fails
    with EINVAL. The device must be in D0 too (v5); writing its PM registers is the VMM's. What was raised before stays
    readable in the eventfds. VfioDeviceFrozen: EIO. KernelRefused: EINVAL, not bound to an iommufd.
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
    """What a device's file answers."""

    UNBOUND = "it is not bound to an iommufd"
    READY = "it can be used"
    FROZEN = "an update that did not happen has frozen it"


def state(device: int | HasFileno) -> State:
    """How the device is: for a VMM whose update was cancelled (H22), or that was handed a file. KernelRefused.

    READY says nothing of its registers: a reboot(2) that failed at a later device has reset this one under v2's rules.
    A VMM that was told of a cancelled update sets its devices up anew, whatever their state.
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
    """Takes a frozen device from its driver and gives it back, which is what ends `State.FROZEN`; its path.

    As root. Every file of the device must be closed, and the session that holds it, else this waits for that and
    cannot be interrupted. Errors of `bind_driver`.
    """
    address = pci.check_address(address)
    driver = pci.driver_of(address)
    if driver is not None:
        _store(pci.DEVICES / address / "driver" / "unbind", address)
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
    """The ioctl with a structure that begins with its own size; the structure as it is afterwards."""
    argument = bytearray(layout.pack(layout.size, *values))
    try:
        fcntl.ioctl(_fd(file), _NUMBERS[name], argument)
    except OSError as error:
        code = error.errno or 0
        raise refusal(name, code) from None
    return tuple(layout.unpack(argument))


def refusal(name: str, code: int) -> KernelRefused:
    """Returns what the errno `code` of the ioctl `name` means."""
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


def _store(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="ascii")
    except OSError as error:
        raise KernelRefused(error.errno or 0, f"write {path}") from None


def _fd(file: int | HasFileno) -> int:
    return file if isinstance(file, int) else file.fileno()
