"""The capabilities that no process of a machine has: what they permit reaches the host past every namespace.

A machine of root is in the host's user namespace. With these its root could set the host's clock, or load a module
into the host's kernel. What CAP_SYS_ADMIN permits is not covered, and a machine is no sandbox.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from luod.linux import syscall

SETPCAP: Final = 8
"""Needed by `withhold`."""

WITHHELD: Final[Mapping[str, int]] = MappingProxyType(
    {
        "CAP_SYS_MODULE": 16,
        "CAP_SYS_RAWIO": 17,
        "CAP_SYS_PACCT": 20,
        "CAP_SYS_TIME": 25,
        "CAP_AUDIT_CONTROL": 30,
        "CAP_MAC_OVERRIDE": 32,
        "CAP_MAC_ADMIN": 33,
        "CAP_SYSLOG": 34,
        "CAP_WAKE_ALARM": 35,
        "CAP_BLOCK_SUSPEND": 36,
    }
)

_PR_CAPBSET_READ: Final = 23
_PR_CAPBSET_DROP: Final = 24
_VERSION_3: Final = 0x20080522
_HEADER: Final = struct.Struct("=Ii")
"""version, pid; 0 is the calling thread."""
_SETS: Final = struct.Struct("=6I")
"""effective, permitted and inheritable: the low halves of all three, then the high halves."""


def withhold() -> None:
    """Removes WITHHELD from all five sets of this thread, so that no program that it executes has them.

    Raises OSError EPERM without CAP_SETPCAP.
    """
    for number in WITHHELD.values():
        if syscall("prctl", _PR_CAPBSET_READ, number, 0, 0, 0):
            syscall("prctl", _PR_CAPBSET_DROP, number, 0, 0, 0)
    header = ctypes.create_string_buffer(_HEADER.pack(_VERSION_3, 0), _HEADER.size)
    sets = ctypes.create_string_buffer(_SETS.size)
    syscall("capget", header, sets)
    mask = sum(1 << number for number in WITHHELD.values())
    halves = (mask & 0xFFFFFFFF,) * 3 + (mask >> 32,) * 3
    kept = (old & ~gone for old, gone in zip(_SETS.unpack(sets.raw), halves, strict=True))
    # The kernel removes from the ambient set what is not in the permitted and the inheritable one.
    syscall("capset", header, ctypes.create_string_buffer(_SETS.pack(*kept), _SETS.size))
