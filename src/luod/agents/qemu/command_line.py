"""What to start for a guest: reads a QEMU's command line, and writes the ones that luod starts it by.

Pure: it starts nothing and opens no file. What cannot be carried is in `refusals`, what changes in the next kernel in
`rejoining`, what this QEMU can do in `capabilities`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Final

from luod.agents.guests.live import OWN, RAM_ID
from luod.agents.qemu import refusals, rejoining
from luod.agents.qemu.capabilities import Capabilities
from luod.agents.qemu.options import DISKS, Option, split
from luod.errors import QemuRefusal
from luod.frozen import frozen

MONITOR: Final = f"{OWN}qmp"
"""The id of the character device of luod's monitor in QEMU."""

_SIZE: Final = re.compile(r"(\d{1,20})(\.\d{1,20})?([bkmgtpe]?)", re.IGNORECASE | re.ASCII)
_SHIFTS: Final = {"b": 0, "k": 10, "m": 20, "g": 30, "t": 40, "p": 50, "e": 60}
_RAM_ALIGNMENT: Final = 8192
_RAM_LIMIT: Final = 1 << 62
_VERSION: Final = re.compile(r"-\d+\.\d+$", re.ASCII)


@frozen
class Disk:
    """An image of a disk. `format` is "" where QEMU finds it out. `path` is as written, with the protocol if any."""

    path: str
    format: str
    read_only: bool


@frozen
class Plan:
    """What a guest is started by. `arguments` are as given, without the program; they are what the next kernel needs.

    `machine` is the machine type with its version, `ram_bytes` the size of the guest's RAM and thus of its memfd.
    `notes` are sentences about what is carried, but not as one may expect. `added` is what luod adds for this QEMU.
    """

    program: str
    arguments: tuple[str, ...]
    machine: str
    ram_bytes: int
    disks: tuple[Disk, ...]
    notes: tuple[str, ...]
    added: tuple[str, ...]

    def launch(
        self, ram_fd: int, qmp_fd: int, *, incoming: bool, channels: Sequence[Mapping[str, object]] = ()
    ) -> list[str]:
        """Returns the words to start QEMU by.

        QEMU inherits two files by number: the RAM's memfd of `ram_bytes`, and a connected UNIX socket, at whose other
        end is the caller's monitor. If `incoming`, QEMU waits for `migrate-incoming`, or for a guest on the
        `channels` of its migration, and the guest stays paused then.
        """
        waits = [word for channel in channels for word in ("-incoming", json.dumps(channel))] or ["-incoming", "defer"]
        given = rejoining.rewritten(self.arguments) if incoming else list(self.arguments)
        ram = f"memory-backend-file,id={RAM_ID},size={self.ram_bytes},mem-path=/proc/self/fd/{ram_fd},share=on"
        return [
            self.program,
            *given,
            *self.added,
            "-object",
            ram,
            "-machine",
            f"type={self.machine},memory-backend={RAM_ID}",
            "-chardev",
            f"socket,id={MONITOR},fd={qmp_fd}",
            *(("-S", *waits) if incoming else ()),
        ]


def plan(arguments: Sequence[str], capabilities: Capabilities, *, machine: str = "") -> Plan:
    """Returns what to start the guest of `arguments` by, which are those of QEMU without the program.

    `machine` is the machine type of a guest that has run before, with its version: the guest stays on it under a newer
    QEMU. Raises QemuRefusal: the guest could not be carried through an update, or this QEMU cannot run it.
    """
    options = split(arguments)
    for option in options:
        refusals.check(option)
    return Plan(
        program=capabilities.program,
        arguments=tuple(arguments),
        machine=_machine(options, capabilities, machine),
        ram_bytes=_ram_bytes(options),
        disks=tuple(disk for option in options if (disk := _disk(option)) is not None),
        notes=tuple(note for option in options for note in rejoining.notes(option)),
        added=_added(capabilities),
    )


def drivers(arguments: Sequence[str]) -> tuple[str, ...]:
    """Returns the drivers of the devices in `arguments`, which `capabilities.probe` asks the QEMU for.

    Raises QemuRefusal: they cannot be read.
    """
    found = (option.kind for option in split(arguments) if option.name == "device")
    return tuple(sorted({driver for driver in found if driver}))


def _machine(options: Sequence[Option], capabilities: Capabilities, known: str) -> str:
    if capabilities.lacks:
        raise QemuRefusal(
            f"QEMU {capabilities.version} has no device {', '.join(capabilities.lacks)}",
            hint=f"use a QEMU that has it, or install what {capabilities.program} lacks",
        )
    given = _last(options, ("machine", "M"), "type") or capabilities.default_machine
    if not known:
        if given == "none":
            raise QemuRefusal("-machine none: such a machine has no guest", hint="give a machine type, such as q35")
        known = capabilities.versioned(given)
    if known not in capabilities.machines:
        raise QemuRefusal(
            f"QEMU {capabilities.version} has no machine type {known!r}"
            + (f", which the guest has as {given!r}" if given not in (known, "") else ""),
            hint=f"see `{capabilities.program} -machine help`; a guest stays on the machine type of its start",
        )
    return known


def has_version(machine: str) -> bool:
    """Returns whether a machine type is the same in each QEMU that has it, as pc-q35-7.2 is and microvm is not."""
    return _VERSION.search(machine) is not None


def _ram_bytes(options: Sequence[Option]) -> int:
    text = _last(options, ("m",), "size")
    if not text:
        raise QemuRefusal("the size of the guest's RAM is not given", hint="add -m SIZE, such as -m 2G")
    match = _SIZE.fullmatch(text)
    if match is None or (match[2] and not match[3]):
        raise QemuRefusal(
            f"-m {text[:80]}: not a size", hint="give a number of MiB, or one with a unit: -m 2048, -m 2G"
        )
    unit = match[3].lower() or "m"
    size = int(match[1]) << _SHIFTS[unit]
    if match[2]:
        size += int(float(match[2]) * (1 << _SHIFTS[unit]))
    size = -(-size // _RAM_ALIGNMENT) * _RAM_ALIGNMENT
    if not 0 < size < _RAM_LIMIT:
        raise QemuRefusal(f"-m {text[:80]}: no guest can have RAM of this size", hint="give a size such as -m 2G")
    return size


def _disk(option: Option) -> Disk | None:
    """Returns the image that an option names. The nodes of -blockdev that only refer to another have none."""
    given = option.parameters
    if option.name in DISKS | {""}:
        return Disk(option.value, "raw" if option.name == "" else "", option.name == "cdrom")
    if option.name == "drive":
        path = given.get("file") or given.get("file.filename")
        read_only = given.get("media") == "cdrom" or given.is_on("readonly") or given.is_on("read-only")
        return Disk(path, given.get("format") or given.get("driver"), read_only) if path else None
    if option.name == "blockdev":
        path = given.get("file.filename") or given.get("filename")
        kind = option.kind if "file.filename" in given else ""
        return Disk(path, kind, given.is_on("read-only")) if path else None
    return None


def _added(capabilities: Capabilities) -> tuple[str, ...]:
    """Returns what each QEMU of luod's is started with, except what names a file."""
    monitor = f"chardev={MONITOR}"
    words = ["-no-user-config", "-only-migratable"]
    if capabilities.aux_ram_share:
        words += ("-machine", "aux-ram-share=on")
    if capabilities.monitor_object:
        words += ("-object", f"monitor-qmp,id={MONITOR}-monitor,{monitor}")
    else:
        words += ("-mon", f"{monitor},mode=control")
    return tuple(words)


def _last(options: Sequence[Option], names: tuple[str, ...], key: str) -> str:
    """Returns the value of `key` in the last option of these names that has it. QEMU merges them."""
    return next((o.parameters.get(key) for o in reversed(options) if o.name in names and key in o.parameters), "")
