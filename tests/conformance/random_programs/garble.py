"""The arguments of random calls, right and wrong: names, tokens, sizes, tails, memory, ioctl numbers.

Only `generate` uses it. Right arguments are likelier than wrong ones, or no program would get far.
"""

from __future__ import annotations

import random
from typing import Any, Final

from luod.uapi import kexec as kexec_api

NAMES: Final = (
    "vm", "VM", "vm-1", "vm-1/disk", "vm-10", "a", "/", ".", "..", " ", "a/b/../c", "new\nline", "\x01", "\x7f",
    "\xff\xfe", "%s%n", "\xc3\xa4", "systemd", "luod", "n" * 7, "n" * 8, "n" * 62, "n" * 63, "(deleted)", "x] y",
)  # fmt: skip
BAD_NAMES: Final = ("", "\0vm", "n" * 64, "\xff" * 64)
TOKENS: Final = (0, 1, 2, 3, 4, 5, 1 << 32, 1 << 63, 2**64 - 2, 2**64 - 1)
LARGEST: Final = 0xFFFFFFFF


def name(chance: random.Random) -> str:
    """Returns mostly one of few names, so that names meet; sometimes a new one."""
    kind = chance.randrange(20)
    if kind == 0:
        return chance.choice(BAD_NAMES)
    if kind == 1:
        return chance.choice(NAMES) + "\0" + chance.choice(("", "zzz", "vm"))
    if kind < 8:
        return f"vm-{chance.randrange(1000)}"
    return chance.choice(NAMES)


def token(chance: random.Random) -> int:
    return chance.choice(TOKENS) if chance.randrange(3) else chance.randrange(1 << 64)


def text(chance: random.Random) -> str:
    return chance.randbytes(chance.choice((1, 8, 40))).decode("latin-1")


def argument(chance: random.Random, length: int) -> dict[str, Any]:
    """Returns how an ioctl's argument of `length` bytes is passed: mostly correctly."""
    kind = chance.randrange(50)
    if kind == 0:
        return {"size": chance.choice((0, 1, 4, 8, length - 1, length - 4))}
    if kind == 1:
        return {"size": length + chance.choice((1, 4, 8, 56, 4096, 8192))}
    if kind == 2:
        longer = chance.choice((1, 2, 8, 64, 4096))
        return {"size": length + longer, "tail": chance.choice("\1\x80\xff")}
    if kind in (3, 8, 9):  # the most likely places for errors: the call takes effect and cannot report it
        return {"memory": "read-only"}
    if kind == 4:
        return {"memory": "null"}
    if kind == 5:
        return {"mapped": chance.choice((0, 3, 4, length - 1))}
    if kind == 6:
        longer = chance.choice((8, 64, 5000))
        return {"size": length + longer, "mapped": length + chance.choice((0, 1, longer - 1))}
    if kind == 7:
        return {"size": LARGEST, "tail": chance.choice(("", "\0", "\1"))}
    return {}


def succeeds(how: dict[str, Any], length: int) -> bool:
    """Returns whether a call with such an argument can succeed."""
    return set(how) <= {"size"} and length <= how.get("size", length) < LARGEST


def takes_place(how: dict[str, Any], length: int) -> bool:
    """Returns whether the kernel executes the call, even if it cannot report that."""
    return succeeds(how, length) or how.get("memory") == "read-only"


def any_ioctl(chance: random.Random) -> dict[str, Any]:
    """Returns an ioctl of type 0xBA with any number, direction and size, and hardly any argument."""
    number = chance.choice((0, 1, 2, 0x3F, 0x40, 0x41, 0x42, 0x43, 0x44, 0x7E, 0xFF, chance.randrange(256)))
    command = 0xBA00 | number
    if chance.randrange(2):
        command |= chance.choice((1, 2, 3)) << 30 | chance.choice((0, 4, 8, 16, 72, 0x3FFF)) << 16
    how = chance.randrange(4)
    if how == 0:
        return {"command": command, "memory": "null"}
    if how == 1:
        return {"command": command, "data": "\0" * 8, "mapped": chance.choice((0, 3, 4))}
    size = chance.choice((0, 1, 4, 7))
    return {"command": command, "data": chr(size) + "\0" * 79}


def reboot(chance: random.Random) -> dict[str, int]:
    magics = (kexec_api.LINUX_REBOOT_MAGIC2, kexec_api.LINUX_REBOOT_MAGIC2A, kexec_api.LINUX_REBOOT_MAGIC2C, 1)
    commands = (
        kexec_api.LINUX_REBOOT_CMD_KEXEC,
        kexec_api.LINUX_REBOOT_CMD_KEXEC,
        kexec_api.LINUX_REBOOT_CMD_CAD_OFF,
        kexec_api.LINUX_REBOOT_CMD_CAD_ON,
        0x12345,
    )
    return {
        "command": chance.choice(commands),
        "magic1": chance.choice((kexec_api.LINUX_REBOOT_MAGIC1, kexec_api.LINUX_REBOOT_MAGIC1, 0)),
        "magic2": chance.choice(magics),
    }
