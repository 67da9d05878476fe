"""The ioctl of /proc/PID/maps of linux/fs.h, Linux 6.11: one mapping, by address."""

from __future__ import annotations

import struct
from typing import Final

PROCMAP_QUERY: Final = 0xC0686611

PROCMAP_QUERY_VMA_READABLE: Final = 1
PROCMAP_QUERY_VMA_WRITABLE: Final = 2
PROCMAP_QUERY_VMA_EXECUTABLE: Final = 4
PROCMAP_QUERY_VMA_SHARED: Final = 8
PROCMAP_QUERY_COVERING_OR_NEXT_VMA: Final = 16

QUERY: Final = struct.Struct("=9Q4I2Q")
"""struct procmap_query: size, query_flags, query_addr; the answer's start, end, flags, page size, offset, inode, device
(major, minor), the sizes of name and build id, and where to write these two; a size of 0 asks for neither.
"""
