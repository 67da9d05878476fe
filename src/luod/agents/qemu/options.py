"""Splits the command line of a QEMU into its options, as QEMU does.

It knows which options QEMU has and how their values are written, not what they mean (`command_line`, `refusals`).

QEMU has its own rules. `-opt` and `--opt` are the same, a value is always the next word, also where that begins with a
dash, `-opt=value` is no option, nothing may be abbreviated, and each word that is neither is an image of a disk.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from luod.agents.qemu import parameters
from luod.agents.qemu.parameters import Parameters
from luod.errors import QemuRefusal
from luod.frozen import frozen

FLAGS: Final = frozenset(
    [
        "S",
        "async-teardown",
        "audio-help",
        "daemonize",
        "enable-kvm",
        "enable-sync-profile",
        "full-screen",
        "h",
        "help",
        "jitdump",
        "mem-prealloc",
        "no-acpi",
        "no-fd-bootchk",
        "no-hpet",
        "no-reboot",
        "no-shutdown",
        "no-user-config",
        "nodefaults",
        "nographic",
        "old-param",
        "only-migratable",
        "perfmap",
        "portrait",
        "preconfig",
        "s",
        "semihosting",
        "singlestep",
        "snapshot",
        "usb",
        "version",
        "win2k-hack",
        "xen-attach",
        "xen-domid-restrict",
    ]
)
"""The options without a value, of QEMU 7.2 to 11.1."""

IMPLIED: Final[dict[str, str]] = {
    "M": "type",
    "accel": "accel",
    "acpitable": "sig",
    "action": "",
    "add-fd": "",
    "audio": "driver",
    "audiodev": "driver",
    "blockdev": "driver",
    "boot": "order",
    "chardev": "backend",
    "compat": "",
    "cpu": "model",
    "device": "driver",
    "display": "type",
    "drive": "",
    "fsdev": "fsdriver",
    "fw_cfg": "name",
    "global": "",
    "icount": "shift",
    "iscsi": "",
    "m": "size",
    "machine": "type",
    "mon": "chardev",
    "msg": "",
    "name": "guest",
    "net": "type",
    "netdev": "type",
    "nic": "type",
    "numa": "type",
    "object": "qom-type",
    "option-rom": "romfile",
    "overcommit": "",
    "plugin": "file",
    "rtc": "",
    "run-with": "",
    "sandbox": "enable",
    "semihosting-config": "enable",
    "smbios": "",
    "smp": "cpus",
    "spice": "",
    "tpmdev": "type",
    "trace": "enable",
    "virtfs": "fsdriver",
    "vnc": "vnc",
}
"""The options whose value has keys, each with the key of a first value without one."""

CHARACTER_DEVICES: Final = frozenset(["debugcon", "gdb", "monitor", "parallel", "qmp", "qmp-pretty", "serial"])
"""The options whose value is a character device in the older form."""

DISKS: Final = frozenset(["fda", "fdb", "hda", "hdb", "hdc", "hdd", "cdrom", "mtdblock", "pflash", "sd"])
"""The options whose value is the path of an image."""

PLAIN: Final = DISKS | frozenset(
    [
        "D",
        "L",
        "append",
        "bios",
        "chroot",
        "d",
        "dfilter",
        "dtb",
        "dump-vmstate",
        "echr",
        "incoming",
        "initrd",
        "k",
        "kernel",
        "loadvm",
        "mem-path",
        "pidfile",
        "prom-env",
        "qtest",
        "qtest-log",
        "readconfig",
        "rotate",
        "runas",
        "seed",
        "set",
        "shim",
        "usbdevice",
        "uuid",
        "vga",
        "watchdog-action",
        "xen-domid",
    ]
)
"""The options whose value is one word."""


@frozen
class Option:
    """One option. `name` is written without dashes, and is "" for an image of a disk that has no option. `position` is
    that of its first word.
    """

    name: str
    value: str
    position: int
    parameters: Parameters = Parameters()

    def __str__(self) -> str:
        return " ".join(word for word in (f"-{self.name}" if self.name else "", self.value) if word)

    @property
    def kind(self) -> str:
        """Returns the driver of a device, the type of an object or a network, the backend of a character device."""
        return self.parameters.get(IMPLIED.get(self.name, "backend"))


def split(arguments: Sequence[str]) -> tuple[Option, ...]:
    """Returns the options of `arguments`, which begin after the program.

    Raises QemuRefusal: QEMU has no such option, or a value is missing.
    """
    found = []
    at = 0
    while at < len(arguments):
        position, word = at, arguments[at]
        at += 1
        if "\0" in word:
            raise QemuRefusal("an argument has a NUL character", hint="no program can be given such an argument")
        if not word.startswith("-"):
            found.append(Option("", word, position))
            continue
        name = word[2:] if word.startswith("--") else word[1:]
        if name in FLAGS:
            found.append(Option(name, "", position))
            continue
        if name not in PLAIN and name not in CHARACTER_DEVICES and name not in IMPLIED:
            raise QemuRefusal(f"{word}: luod does not know this option of QEMU", hint=_hint(name))
        if at == len(arguments):
            raise QemuRefusal(f"{word}: this option needs a value", hint="give the value as the next word")
        found.append(_option(name, arguments[at], position))
        at += 1
    return tuple(found)


def _option(name: str, value: str, position: int) -> Option:
    if "\0" in value:
        raise QemuRefusal(f"-{name}: the value has a NUL character", hint="no program can be given such an argument")
    if name in CHARACTER_DEVICES:
        return Option(name, value, position, parameters.character_device(value))
    if name in IMPLIED:
        return Option(name, value, position, parameters.read(value, IMPLIED[name]))
    return Option(name, value, position)


def _hint(name: str) -> str:
    before, equals, _ = name.partition("=")
    if equals and (before in PLAIN or before in CHARACTER_DEVICES or before in IMPLIED):
        return f"QEMU takes the value as the next word: -{before} VALUE"
    return "it may be of a newer QEMU than 11.1; leave it out"
