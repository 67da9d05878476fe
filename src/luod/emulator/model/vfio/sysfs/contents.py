"""The contents of sysfs files of functions and bridges, and the effect of writes to them.

The tree of files is in `sysfs.py`.
"""

from __future__ import annotations

import contextlib
import errno
import re
import struct
from typing import Final

from luod.emulator.model.ports import Errno
from luod.emulator.model.vfio.function import Function, Port
from luod.emulator.model.vfio.hardware.config_space import COMMAND_MASTER, COMMAND_MEMORY
from luod.emulator.model.vfio.hardware.config_space import SIZE as CONFIG_SIZE
from luod.emulator.model.vfio.hardware.device import Device

BRIDGE_VENDOR: Final = 0x1B36
BRIDGE_DEVICE: Final = 0x000C
BRIDGE_CLASS: Final = 0x060400
_BRIDGE_CONFIG: Final = struct.Struct("<HHHHIBBBB8xBBB25xB11x")
"""A bridge's header: the first part up to its bus numbers, and the offset of its capabilities."""
_BRIDGE_EXPRESS: Final = struct.Struct("<BBH")
_MEMORY_32_BIT: Final = 0x40200
_NUMBER: Final = re.compile(r"\+?(?:0[xX]([0-9a-fA-F]+)|(0[0-7]*)|([1-9][0-9]{0,19}))", re.ASCII)
"""A decimal number of 64 bits has at most 20 digits."""
_OVERRIDE_END: Final = 4095
"""Bytes: a written text of this length is too long, with its newline."""


def bridge_config(port: Port) -> bytes:
    """Returns the configuration space of a root port of PCI Express that forwards memory and DMA."""
    header = _BRIDGE_CONFIG.pack(
        BRIDGE_VENDOR,
        BRIDGE_DEVICE,
        COMMAND_MEMORY | COMMAND_MASTER,
        0x0010,  # it has capabilities
        BRIDGE_CLASS << 8,
        0,
        0,
        1,  # the header is a bridge's
        0,
        port.address.bus,
        port.bus,
        port.bus,
        _BRIDGE_CONFIG.size,
    )
    return (header + _BRIDGE_EXPRESS.pack(0x10, 0, 0x0042)).ljust(CONFIG_SIZE, b"\0")


def number(words: str, bits: int = 64) -> int:
    """Returns a number as kstrtoull reads it: decimal, octal with 0, hexadecimal with 0x.

    Raises Errno(EINVAL) for another word, and for a number of more than `bits`.
    """
    found = _NUMBER.fullmatch(words)
    if found is None:
        raise Errno(errno.EINVAL)
    hexadecimal, octal, decimal = found.groups()
    value = int(hexadecimal, 16) if hexadecimal else int(octal, 8) if octal else int(decimal)
    if value >= 1 << bits:
        raise Errno(errno.EINVAL)
    return value


def is_one(words: str) -> bool:
    """Returns whether the number is not zero. Raises Errno(EINVAL) for a word that is not a number."""
    return number(words) != 0


def override(function: Function, text: str) -> int:
    """Sets driver_override to the first line; an empty one removes it. Raises Errno(EINVAL) for a text too long."""
    if len(text) >= _OVERRIDE_END:
        raise Errno(errno.EINVAL)
    function.driver_override = re.split("[\n\0]", text)[0] or None
    return 0


def configure(device: Device, offset: int, data: bytes) -> int:
    """Writes to configuration space as setpci does, independent of open files. Raises Errno(EFBIG) after the end."""
    if offset > CONFIG_SIZE:
        raise Errno(errno.EFBIG)
    data = data[: CONFIG_SIZE - offset]
    if device.config.write(offset, data):
        with contextlib.suppress(Errno):
            device.reset()
    return len(data)


def chosen(function: Function, words: str) -> Function:
    """Returns `function` for a written 1. Raises Errno(EINVAL) for anything else."""
    if number(words) != 1:
        raise Errno(errno.EINVAL)
    return function


def modalias(function: Function) -> str:
    found = function.device.description
    base, sub, interface = found.class_code >> 16, found.class_code >> 8 & 0xFF, found.class_code & 0xFF
    return (
        f"pci:v{found.vendor:08X}d{found.device:08X}sv{found.vendor:08X}sd{found.device:08X}"
        f"bc{base:02X}sc{sub:02X}i{interface:02X}"
    )


def resources(function: Function) -> bytes:
    """Returns 13 lines of start, end and flags: 6 BARs, the ROM, and a bridge's windows."""
    config = function.device.config
    lines = []
    for index in range(13):
        if index < len(function.device.bars):
            start = int.from_bytes(config.read(0x10 + 4 * index, 4), "little")
            end = start + function.device.bars[index].size - 1
            lines.append(f"{start:#018x} {end:#018x} {_MEMORY_32_BIT:#018x}\n")
        else:
            lines.append(f"{0:#018x} {0:#018x} {0:#018x}\n")
    return "".join(lines).encode()


def uevent(function: Function) -> bytes:
    found = function.device.description
    lines = [] if function.driver is None or function.unbinding else [f"DRIVER={function.driver.name}"]
    lines += [
        f"PCI_CLASS={found.class_code:X}",
        f"PCI_ID={found.vendor:04X}:{found.device:04X}",
        f"PCI_SUBSYS_ID={found.vendor:04X}:{found.device:04X}",
        f"PCI_SLOT_NAME={function.address}",
        f"MODALIAS={modalias(function)}",
    ]
    return "".join(line + "\n" for line in lines).encode()
