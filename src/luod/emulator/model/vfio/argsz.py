"""VFIO's way to pass structures: `argsz` first, a required minimum, and a tail that newer callers have.

Every ioctl of a device, a group and a container reads its argument here. iommufd's way is LUO's, `model.decode`.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Sequence
from typing import Any, Final

from luod.emulator.model.caller import Caller
from luod.emulator.model.decode import refuse_tail
from luod.emulator.model.ports import Errno
from luod.uapi import vfio as uapi

_U32: Final = 4


def read(caller: Caller, address: int, layout: struct.Struct, minimum: int | None = None) -> list[Any]:
    """Returns the fields; those after `minimum` (bytes; None: all) may be missing and are 0 then.

    Raises Errno(EFAULT), and Errno(EINVAL) for an argsz that is too small.
    """
    minimum = layout.size if minimum is None else minimum
    data = caller.read(address, minimum)
    if int.from_bytes(data[:_U32], "little") < minimum:
        raise Errno(errno.EINVAL)
    return list(layout.unpack(data.ljust(layout.size, b"\0")))


def read_extensible(caller: Caller, address: int, layout: struct.Struct, minimum: int) -> list[Any]:
    """Returns the fields as copy_struct_from_user does. Raises Errno(E2BIG) for a tail that is not all zero."""
    size = int.from_bytes(caller.read(address, _U32), "little")
    if size < minimum:
        raise Errno(errno.EINVAL)
    refuse_tail(address + layout.size, address + size, caller)
    return list(layout.unpack(caller.read(address, min(size, layout.size)).ljust(layout.size, b"\0")))


def write(caller: Caller, address: int, layout: struct.Struct, values: Sequence[int], length: int) -> None:
    """Writes the first `length` bytes of the structure. Raises Errno(EFAULT)."""
    caller.write(address, layout.pack(*values)[:length])


def chain(capabilities: Sequence[tuple[int, int, bytes]], offset: int) -> bytes:
    """Returns capabilities (id, version, content) for a structure that ends at `offset`. Each points to the next."""
    done = b""
    for index, (number, version, content) in enumerate(capabilities):
        size = uapi.INFO_CAP_HEADER.size + len(content)
        padding = -size % 8
        following = offset + len(done) + size + padding if index + 1 < len(capabilities) else 0
        done += uapi.INFO_CAP_HEADER.pack(number, version, following) + content + bytes(padding)
    return done
