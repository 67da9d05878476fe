"""PCI devices and their drivers in sysfs, and the device behind an open VFIO file. It only reads.

`luod.vfio` uses devices; `luod.liveupdate` and `luod.kexec` only need to know of them. No ioctl is made here. A device
is named by its address, such as 0000:01:00.0: a live update keeps nothing else of it.
"""

from __future__ import annotations

import os

from luod.errors import BadInput
from luod.static import Final

DEVICES: Final = "/sys/bus/pci/devices"
DRIVERS: Final = "/sys/bus/pci/drivers"
VFIO_CLASS: Final = "/sys/class/vfio-dev"
VFIO_PCI: Final = "vfio-pci"
"""The one driver whose devices are preserved. Those of its variants for single devices are refused."""

INTEL: Final = 0x8086
_DISPLAY: Final = 0x03
_DIGITS: Final = frozenset("0123456789")
_HEX: Final = _DIGITS | frozenset("abcdef")
_NODE: Final = "vfio"
_SYSPATH: Final = "vfio-device-syspath:"
"""The line of fdinfo with the sysfs path of a VFIO file's device, in kernels that have it."""


def check_address(address: str) -> str:
    """Returns `address` in lower case. Raises BadInput: it is not domain:bus:device.function."""
    address = address.lower()
    if not _is_address(address):
        raise BadInput(f"not a PCI address: {address!r}", hint="write it as lspci -D does, such as 0000:01:00.0")
    return address


def _is_address(text: str) -> bool:
    """Returns whether `text` is domain:bus:device.function, in lower case."""
    # Not a pattern: the import of `re` would be a third of the start of the process that calls reboot(2).
    domain, _, rest = text.partition(":")
    if not 4 <= len(domain) <= 8 or len(rest) != 7 or rest[2] != ":" or rest[5] != ".":
        return False
    return _HEX.issuperset(domain + rest[:2] + rest[4]) and rest[3] in "01" and rest[6] in "01234567"


def driver_of(address: str) -> str | None:
    """Returns the name of the device's driver; None without a driver or without the device."""
    return _link(f"{DEVICES}/{address}/driver")


def vfio_node(address: str) -> str | None:
    """Returns the name of the device's file in /dev/vfio/devices, such as vfio0; None while no VFIO driver has it."""
    try:
        names = os.listdir(f"{DEVICES}/{address}/vfio-dev")
    except (FileNotFoundError, NotADirectoryError):
        return None
    return min(names, default=None)


def any_vfio_device() -> bool:
    """Returns whether a VFIO driver has any device of this machine."""
    try:
        return bool(os.listdir(VFIO_CLASS))
    except OSError:
        return False


def visible() -> bool:
    """Returns whether this process sees the devices of its machine: a sandbox may hide /sys."""
    return os.path.isdir(DEVICES)


def is_virtual_function(address: str) -> bool:
    return os.path.islink(f"{DEVICES}/{address}/physfn")


def is_intel_display(address: str) -> bool:
    return _number(address, "vendor") == INTEL and (_number(address, "class") or 0) >> 16 == _DISPLAY


def address_of(fd: int) -> str | None:
    """Returns the address of the device behind an open VFIO device file; None if it is not known.

    It is known for files opened in /dev/vfio/devices. For those from a group and for retrieved ones it is known only
    with kernels that show the device in /proc/self/fdinfo.
    """
    name = os.path.basename(link_of(fd))
    if name.startswith(_NODE) and name != _NODE and _DIGITS.issuperset(name.removeprefix(_NODE)):
        return _link(f"{VFIO_CLASS}/{name}/device")
    try:
        lines = _text(f"/proc/self/fdinfo/{fd}").splitlines()
    except (OSError, UnicodeDecodeError):
        return None
    paths = [line.partition(":")[2].strip() for line in lines if line.startswith(_SYSPATH)]
    found = os.path.basename(paths[0]) if paths else ""
    return found if _is_address(found) else None


def link_of(fd: int) -> str:
    """Returns the link of `fd` in /proc: a path, or "anon_inode:[…]"; "" if it cannot be read."""
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return ""


def _link(path: str) -> str | None:
    try:
        return os.path.basename(os.readlink(path))
    except OSError:
        return None


def _number(address: str, name: str) -> int | None:
    try:
        return int(_text(f"{DEVICES}/{address}/{name}"), 16)
    except (OSError, ValueError):
        return None


def _text(path: str) -> str:
    with open(path, encoding="ascii") as file:
        return file.read()
