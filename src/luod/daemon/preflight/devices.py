"""Devices of sessions, as sysfs shows them, and a pending unbind of one (docs/hazards.md, H27).

An unbind of a preserved device waits until its session is finished, and reboot(2) then waits for the unbind: it neither
returns nor starts the kernel. Meanwhile the device's driver and its VFIO file are missing in sysfs. `observe` reads,
`judge` is pure.
"""

from __future__ import annotations

import os
import platform
from pathlib import Path

from luod import pci
from luod.daemon.preflight.findings import finding, listed
from luod.errors import BadInput
from luod.frozen import frozen
from luod.static import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from luod.ipc.types.admin import Finding
    from luod.ipc.types.updates import DeclaredFile, When

KINDS: Final = ("vfio", "vfio-pci")
_ALREADY: Final[tuple[When, ...]] = ("preserved",)
_DEVICES: Final = "sys/bus/pci/devices"
_DELETE_MODULE: Final = {"x86_64": 176, "aarch64": 106}
_UNBINDING: Final = ("/unbind", "/remove")
"""Files of sysfs to which a write unbinds a device from its driver."""
_MOST_FILES: Final = 4096
"""The maximum number of a process's files that are searched for one."""


@frozen
class Device:
    """A device by its address, None if that is not known.

    `bound`: vfio-pci has it, and its file exists; None if this machine shows no devices.
    """

    address: str | None
    bound: bool | None


@frozen
class Devices:
    """The devices of sessions. `unbinding`: processes that unbind a device now, as text.

    They are searched for if a device is not bound, or is not known.
    """

    held: tuple[Device, ...] = ()
    unbinding: tuple[str, ...] = ()


def observe(
    files: Iterable[DeclaredFile],
    root: Path = Path("/"),
    *,
    preserved: Collection[When] = _ALREADY,
    undeclared: bool = False,
) -> Devices:
    """Returns the devices among `files` that are preserved by now.

    `preserved` has the declarations of such files. /proc and /sys are below `root`. `undeclared`: a session without a
    participant may hold others.
    """
    addresses = {_address(file) for file in files if file.kind in KINDS and file.when in preserved}
    if undeclared:
        addresses.add(None)
    held = tuple(Device(each, _bound(each, root)) for each in sorted(addresses, key=str))
    if all(device.address is not None and device.bound is not False for device in held):
        return Devices(held)
    return Devices(held, tuple(_unbinding(root)))


def judge(devices: Devices) -> Iterator[Finding]:
    pending = [device.address for device in devices.held if device.address is not None and device.bound is False]
    # An unknown device may be the one.
    if not pending and not (devices.unbinding and any(device.address is None for device in devices.held)):
        return
    what = "a device is being unbound, and luod does not know the addresses of all devices in sessions"
    if pending:
        what = f"devices of sessions are being unbound from vfio-pci: {listed(pending)}"
    doing = f"by {listed(devices.unbinding)}" if devices.unbinding else "by no process that luod sees"
    yield finding(
        "unbind-pending",
        f"{what}; {doing}",
        "unbinding a preserved device waits for the end of its session, and reboot(2) waits for the unbind: it "
        "would block forever",
        "release the sessions that hold the device, which ends the unbind; then bind vfio-pci and preserve again",
    )


def _address(file: DeclaredFile) -> str | None:
    """Returns the PCI address, or None if it is malformed: a participant sent it, and it becomes part of a path."""
    try:
        return None if file.device is None else pci.check_address(file.device)
    except BadInput:
        return None


def _bound(address: str | None, root: Path) -> bool | None:
    folder = root / _DEVICES
    if address is None or not folder.is_dir():
        return None
    try:
        return (folder / address / "driver").exists() and bool(os.listdir(folder / address / "vfio-dev"))
    except OSError:
        return False


def _unbinding(root: Path) -> Iterator[str]:
    """Yields the processes that have a file open for an unbind, or unload a module."""
    try:
        pids = sorted(int(name) for name in os.listdir(root / "proc") if name.isdigit())
    except OSError:
        return
    for pid in pids:
        folder = root / "proc" / str(pid)
        if _writes_unbind(folder) or _unloads(folder):
            yield f"{_text(folder / 'comm') or '?'} (pid {pid})"


def _writes_unbind(folder: Path) -> bool:
    try:
        numbers = os.listdir(folder / "fd")[:_MOST_FILES]
    except OSError:
        return False
    for number in numbers:
        try:
            path = os.readlink(folder / "fd" / number)
        except OSError:
            continue
        if path.endswith(_UNBINDING) and "/sys/" in f"{path}/":
            return True
    return False


def _unloads(folder: Path) -> bool:
    return _text(folder / "syscall").split(" ")[0] == str(_DELETE_MODULE.get(platform.machine()))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
