"""linux/liveupdate.h of Linux 7.3: ioctl numbers and structures of `/dev/liveupdate` and of session fds.

Data only. `luod.liveupdate` makes the calls, `luod.emulator.model` answers them. All structures are native-endian and
unpadded, and begin with `u32 size`, the length the caller knows of. Numbers are `_IO(0xBA, nr)`: no size, no direction.
"""

from __future__ import annotations

import struct

from luod.static import Final

DEVICE: Final = "/dev/liveupdate"

LIVEUPDATE_IOCTL_TYPE: Final = 0xBA
LIVEUPDATE_SESSION_NAME_LENGTH: Final = 64
"""Bytes of a name's field, its NUL included: a name has 1 to 63."""

LIVEUPDATE_CMD_BASE: Final = 0x00
LIVEUPDATE_CMD_CREATE_SESSION: Final = 0x00
LIVEUPDATE_CMD_RETRIEVE_SESSION: Final = 0x01
LIVEUPDATE_CMD_SESSION_BASE: Final = 0x40
LIVEUPDATE_CMD_SESSION_PRESERVE_FD: Final = 0x40
LIVEUPDATE_CMD_SESSION_RETRIEVE_FD: Final = 0x41
LIVEUPDATE_CMD_SESSION_FINISH: Final = 0x42
LIVEUPDATE_CMD_SESSION_GET_NAME: Final = 0x43

LIVEUPDATE_IOCTL_CREATE_SESSION: Final = 0xBA00
LIVEUPDATE_IOCTL_RETRIEVE_SESSION: Final = 0xBA01
LIVEUPDATE_SESSION_PRESERVE_FD: Final = 0xBA40
LIVEUPDATE_SESSION_RETRIEVE_FD: Final = 0xBA41
LIVEUPDATE_SESSION_FINISH: Final = 0xBA42
LIVEUPDATE_SESSION_GET_NAME: Final = 0xBA43

LIVEUPDATE_SESSION_UNPRESERVE_FD: Final = 0xBA7E
"""Named by the kernel document, in no kernel. The number is luod's own.

Only a machine that declares it may be asked (docs/hazards.md, H25).
"""

CREATE_SESSION: Final = struct.Struct("=Ii64s")
"""`{u32 size; s32 fd (out); u8 name[64]}`, 72 bytes. RETRIEVE_SESSION has the same shape."""
RETRIEVE_SESSION: Final = CREATE_SESSION
SESSION_PRESERVE_FD: Final = struct.Struct("=IiQ")
"""`{u32 size; s32 fd; u64 token}`, 16 bytes."""
SESSION_RETRIEVE_FD: Final = struct.Struct("=IiQ")
"""`{u32 size; s32 fd (out); u64 token}`, 16 bytes."""
SESSION_FINISH: Final = struct.Struct("=II")
"""`{u32 size; u32 reserved}`, 8 bytes."""
SESSION_GET_NAME: Final = struct.Struct("=II64s")
"""`{u32 size; u32 reserved; u8 name[64] (out)}`, 72 bytes. Bytes after the name's NUL are not written."""
SESSION_UNPRESERVE_FD: Final = struct.Struct("=IIQ")
"""`{u32 size; u32 reserved; u64 token}`, 16 bytes; profile `document` only."""

TOKEN_MAX: Final = 2**64 - 1
