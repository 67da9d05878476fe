"""The VFIO devices in a session: their identity, why one is refused, and which one FINISH waits for.

`luod.vfio` has a VMM's use of a device. The rules in hints are those of both posted versions, v2 and v5
(docs/kernel.md, 12). If a kernel does not show its version, the hint names the rules of both.
"""

from __future__ import annotations

import errno
import fcntl
import os

from luod import pci
from luod.static import Final
from luod.uapi import iommufd as iommufd_uapi
from luod.uapi import vfio as uapi

_GROUP: Final = "anon_inode:[vfio-device]"
_RETRIEVED: Final = "anon_inode:[vfio-device-liveupdate]"
_SYMBOLS: Final = "/proc/kallsyms"
_CDEV: Final = "open the device with luod.vfio.open_device, and preserve that file"


def is_device(fd: int) -> bool:
    """Returns whether `fd` is a VFIO device file, from any source."""
    link = pci.link_of(fd)
    return link.endswith((_GROUP, _RETRIEVED)) or os.path.dirname(link) == uapi.DEVICES


def is_iommufd(fd: int) -> bool:
    """Returns whether `fd` is an iommufd."""
    return _is_iommufd(pci.link_of(fd))


def _is_iommufd(link: str) -> bool:
    return os.path.basename(link).lstrip(".") == os.path.basename(iommufd_uapi.DEVICE)


def why_refused(fd: int, code: int) -> str:
    """Returns a hint for a PRESERVE_FD of `fd` that failed with `code`; "" for failures unrelated to devices."""
    link = pci.link_of(fd)
    if _is_iommufd(link):
        return (
            "only a kernel with the posted iommufd series preserves an iommufd, and after all the memory "
            "that it maps; bind the retrieved device to a new one"
        )
    if os.path.dirname(link) == uapi.GROUPS:
        return f"VFIO's groups and containers cannot be preserved; {_CDEV}"
    if link.endswith(_GROUP):
        return f"a device from VFIO_GROUP_GET_DEVICE_FD cannot be preserved; {_CDEV}"
    if not is_device(fd):
        return ""
    address = pci.address_of(fd)
    return (address and _why_not(address)) or _why_not_now(fd, code)


def _why_not(address: str) -> str:
    """Returns the property for which the device is never preserved."""
    driver = pci.driver_of(address)
    if driver != pci.VFIO_PCI:
        return f"{address} has the driver {driver}; only devices of vfio-pci can be preserved, not of its variants"
    if pci.is_virtual_function(address):
        return (
            f"{address} is a virtual function, which cannot be preserved: unplug it from the guest before the update. "
            "Its physical function can be preserved, without virtual functions (sriov_numvfs 0)"
        )
    if pci.is_intel_display(address):
        return f"{address} is an Intel display device, which cannot be preserved"
    return ""


def _why_not_now(fd: int, code: int) -> str:
    if code == errno.EINVAL:
        return (
            "the device relies on an ACS quirk, or on a kernel with the posted iommufd series its page table is not "
            "marked with IOMMU_HWPT_LIVEUPDATE_MARK_PRESERVE"
        )
    lacking = "this kernel has no handler for VFIO devices; no released kernel has one; try `luoemu run --vfio`"
    has = has_handler()
    if has is False:
        return lacking
    rule = "its page table is preserved too, and its iommufd must be preserved before it"
    if not is_bound(fd):
        rule = "bind it to an iommufd first (luod.vfio.bind), as v5 of the series asks"
    return f"{rule}; or it is of a kind that this kernel does not preserve" if has else f"{rule}; or {lacking}"


def has_handler(symbols: str | os.PathLike[str] = _SYMBOLS) -> bool | None:
    """Returns whether this kernel has a handler for VFIO devices, from its symbols; None if they are not readable.

    Reading the symbols is slow. An emulated machine shows the symbols of the host's kernel.
    """
    from luod.liveupdate import declared  # no start needs it

    if declared.profile() is not None:
        return None
    found = False
    try:
        with open(symbols, "rb") as lines:
            for line in lines:
                if b"vfio" in line and (b"liveupdate" in line or b"_luo_" in line):
                    return True
                # Without kallsyms the file is missing or empty.
                found = True
    except OSError:
        return None
    return False if found else None


def lost(code: int) -> str:
    """Returns a hint for a RETRIEVE_FD of a device that failed with `code`, which the kernel repeats for good."""
    if code != errno.ENODEV:
        return ""
    return (
        "that is final (H29): the device cannot be retrieved in this boot, and the session cannot be finished. Its "
        "other files can still be retrieved. Then release the session. Bind vfio-pci before RETRIEVE_FD "
        "next time (luod.vfio.bind_driver)"
    )


def is_bound(fd: int) -> bool:
    """Returns whether the device file answers: it is bound to an iommufd, or came from a group."""
    argument = bytearray(uapi.DEVICE_INFO.pack(uapi.DEVICE_INFO.size, 0, 0, 0, 0, 0))
    try:
        fcntl.ioctl(fd, uapi.VFIO_DEVICE_GET_INFO, argument)
    except OSError as error:
        return error.errno != errno.EINVAL
    return True


def is_unbound(address: str) -> bool:
    """Returns whether no VFIO driver has the device, so that it cannot be retrieved. False where /sys is hidden."""
    return pci.visible() and pci.vfio_node(address) is None
