"""Finds the options of a QEMU's command line that two QEMUs cannot have at the same time. Pure, one option at a time.

An exclusive option that is missed here makes an upgrade fail, or disturbs the guest's peer. Another option that is
taken for one only makes the pause longer. So an option that may be exclusive counts as exclusive.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from luod.agents.qemu.options import DISKS, Option, split

_ONCE: Final = frozenset(["pidfile", "gdb", "s", "vnc", "spice", "usbdevice"])
_DISPLAYS: Final = ("vnc", "spice", "dbus")
_NETWORKS: Final = frozenset(["tap", "bridge", "vde", "l2tpv3", "vhost-user", "af-xdp", "passt", "netmap"])
_OWN_PORTS: Final = ("hostfwd", "listen", "udp", "local", "smb")
_DEVICES: Final = (
    "vhost-vsock",
    "vhost-user",
    "vhost-scsi",
    "usb-host",
    "usb-redir",  # its server takes one client
    "u2f-passthru",
    "ccid-card-",
    "ipmi-bmc-extern",
    "virtio-input-host",
    "scsi-generic",
    "scsi-block",
)
_OBJECTS: Final = ("cryptodev-vhost-user", "vhost-user-backend", "input-linux", "rng-egd", "dbus-vmstate")
_BACKENDS: Final = ("udp", "pipe", "pty", "serial", "tty", "parallel", "parport", "braille", "dbus")
_SOUND: Final = frozenset(["alsa", "oss", "sndio", "wav", "dbus"])
"""The back ends that take a device, a file or a name for themselves. The others are clients of a sound server."""
_DISK_DRIVERS: Final = ("nvme", "virtio-blk-")
"""QEMU drives a device of the host by itself. An image in a file is locked only by the QEMU that runs the guest."""


def exclusive(arguments: Sequence[str]) -> tuple[str, ...]:
    """Returns the options that two QEMUs cannot have at the same time: what they listen on, or have for themselves."""
    return tuple(str(option)[:200] for option in split(arguments) if _is_exclusive(option))


def _is_exclusive(option: Option) -> bool:
    given, kind = option.parameters, option.kind
    if option.name in _ONCE:
        return True
    match option.name:
        case "display":
            return option.value.startswith(_DISPLAYS) or kind.startswith(_DISPLAYS)
        case "netdev" | "nic" | "net":
            own = any(key.startswith(_OWN_PORTS) for key, _ in given.items)
            return kind in _NETWORKS or own or given.is_on("server")
        case "device":
            return kind.startswith(_DEVICES)
        case "object":
            return kind.startswith(_OBJECTS)
        case "tpmdev":
            return True  # swtpm answers one client
        case "audiodev" | "audio":
            return kind in _SOUND
        case "trace":
            return "file" in given
        case "blockdev" | "drive" | "":
            return _is_own_disk(option)
    if option.name in DISKS:
        return _is_own_disk(option)
    backend = given.get("backend")
    if backend == "socket":
        return given.is_on("server")
    return backend in _BACKENDS or backend.startswith("/dev/") or given.get("path").startswith("/dev/")


def _is_own_disk(option: Option) -> bool:
    given = option.parameters
    drivers = [value for key, value in given.items if key.rpartition(".")[2] == "driver"]
    paths = [option.value, *(value for key, value in given.items if key in ("file", "filename", "file.filename"))]
    return any(driver.startswith(_DISK_DRIVERS) for driver in drivers) or any(
        path.startswith("nvme://") for path in paths
    )
