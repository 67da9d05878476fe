"""Posted for linux/liveupdate.h, in no released kernel: FREEZE, and arguments of PRESERVE_FD and RETRIEVE_FD.

Data only. The source is the series "liveupdate: early per-session freeze, user arguments, tmpfs files" (linux-kernel,
October 2026). Its commit messages and selftests say what the calls do. The hunk of the header was not seen, so numbers
and fields marked "inferred" are corrected here when it is. The numbers have had other meanings in drafts: only a
machine that declares them may be asked (docs/hazards.md, H25).
"""

from __future__ import annotations

import errno
import struct

from luod.static import Final

LIVEUPDATE_SESSION_FREEZE: Final = 0xBA44
"""The number after GET_NAME. Inferred."""
SESSION_FREEZE: Final = struct.Struct("=II")
"""`{u32 size; u32 reserved}`, 8 bytes, as FINISH. The series has the field `reserved`; the rest is inferred."""

SESSION_PRESERVE_FD: Final = struct.Struct("=IiQQ")
"""`{u32 size; s32 fd; u64 token; u64 arg}`, 24 bytes. The 16 bytes of Linux 7.3 are served, with `arg` 0.

The series has the 64-bit argument; its place and name are inferred.
"""
SESSION_RETRIEVE_FD: Final = SESSION_PRESERVE_FD
ARGUMENT_MINIMUM: Final = 16
"""Bytes that a caller of either must pass."""

MEMFD_RETRIEVE_ARG: Final = struct.Struct("=Ii")
"""`{u32 size; s32 fd}`: the file of a tmpfs that gets the contents. The series has the fd; the layout is inferred."""

ARGUMENT_NOT_TAKEN: Final = errno.EOPNOTSUPP
"""An argument, where the handler takes none. In the series."""
ARGUMENT_OF_A_MEMFD: Final = errno.EINVAL
"""RETRIEVE_FD of a memfd with a target. That it fails is in the series, the number is inferred."""
ARGUMENT_MISSING: Final = errno.EINVAL
"""RETRIEVE_FD of a file of a tmpfs without a target. That it fails is in the series, the number is inferred."""
TARGET_READ_ONLY: Final = errno.EBADF
"""A target that is not open for writing. That it fails is in the series, the number is inferred."""
TARGET_UNFIT: Final = errno.EINVAL
"""A target that is not a linked file of a tmpfs, or not empty. Inferred."""
TARGET_CLAIMED: Final = errno.EBUSY
"""A target that another RETRIEVE_FD has filled, or that is preserved. Inferred."""
