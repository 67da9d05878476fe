"""linux/fuse.h, protocol 7: the part of it that a file system of a few device nodes speaks over `/dev/fuse`. Data only.

`luod.emulator.trap` serves it.
"""

from __future__ import annotations

import struct
from typing import Final

KERNEL_VERSION: Final = 7
KERNEL_MINOR_VERSION: Final = 31
"""What we ask for; a newer kernel steps down to it."""
ROOT_ID: Final = 1
MIN_READ_BUFFER: Final = 8192

FUSE_LOOKUP: Final = 1
FUSE_FORGET: Final = 2
FUSE_GETATTR: Final = 3
FUSE_SETATTR: Final = 4
FUSE_OPEN: Final = 14
FUSE_READ: Final = 15
FUSE_WRITE: Final = 16
FUSE_STATFS: Final = 17
FUSE_RELEASE: Final = 18
FUSE_FSYNC: Final = 20
FUSE_FLUSH: Final = 25
FUSE_INIT: Final = 26
FUSE_INTERRUPT: Final = 36
FUSE_DESTROY: Final = 38
FUSE_IOCTL: Final = 39
FUSE_POLL: Final = 40
FUSE_BATCH_FORGET: Final = 42
FUSE_FALLOCATE: Final = 43

FUSE_ATOMIC_O_TRUNC: Final = 1 << 3
"""An open with O_TRUNC stays one request; a device node ignores the flag."""

FOPEN_DIRECT_IO: Final = 1 << 0
FOPEN_NONSEEKABLE: Final = 1 << 2
FOPEN_STREAM: Final = 1 << 4
FOPEN_NOFLUSH: Final = 1 << 5
"""Linux 5.16: no request at each close(), only FUSE_RELEASE at the last."""

FATTR_MODE: Final = 1 << 0
FATTR_UID: Final = 1 << 1
FATTR_GID: Final = 1 << 2
FATTR_SIZE: Final = 1 << 3

IN_HEADER: Final = struct.Struct("=IIQQIIII")
"""`struct fuse_in_header`: len, opcode, unique, nodeid, uid, gid, tid in the mounter's PID namespace, padding."""
OUT_HEADER: Final = struct.Struct("=IiQ")
"""`struct fuse_out_header`: len, -errno, unique."""
INIT_IN: Final = struct.Struct("=IIII")
"""major, minor, max_readahead, flags; more may follow."""
INIT_OUT: Final = struct.Struct("=IIIIHHIIHHI28x")
"""major, minor, max_readahead, flags, max_background, congestion_threshold, max_write, time_gran, max_pages,
map_alignment, flags2; 64 bytes."""
OPEN_OUT: Final = struct.Struct("=QII")
"""fh, open_flags (FOPEN_*), padding."""
RELEASE_IN: Final = struct.Struct("=QIIQ")
"""fh, flags, release_flags, lock_owner."""
ATTR: Final = struct.Struct("=6Q10I")
"""ino, size, blocks, atime, mtime, ctime, their nanoseconds, mode, nlink, uid, gid, rdev, blksize, flags; 88 bytes."""
ATTR_OUT: Final = struct.Struct("=QII")
"""attr_valid (s), attr_valid_nsec, dummy; ATTR follows."""
SETATTR_IN: Final = struct.Struct("=IIQQQQQQIIIIIIII")
"""valid (FATTR_*), padding, fh, size, lock_owner, atime, mtime, ctime, nanoseconds of them, mode, unused, uid, gid,
unused; 88 bytes."""
IOCTL_IN: Final = struct.Struct("=QIIQII")
"""fh, flags, cmd, arg (the caller's raw pointer), in_size, out_size."""
IOCTL_OUT: Final = struct.Struct("=iIII")
"""result, flags, in_iovs, out_iovs."""
STATFS_OUT: Final = struct.Struct("=5Q4I24x")
"""blocks, bfree, bavail, files, ffree, bsize, namelen, frsize, padding."""
