"""linux/fuse.h, protocol 7: the part that a file system of a few device nodes uses over `/dev/fuse`. Data only.

`luod.emulator.trap` serves it.
"""

from __future__ import annotations

import struct

from luod.static import Final

KERNEL_VERSION: Final = 7
KERNEL_MINOR_VERSION: Final = 40
"""The requested version. A newer kernel uses it too; an older one only lacks flags."""
ROOT_ID: Final = 1

FUSE_LOOKUP: Final = 1
FUSE_FORGET: Final = 2
FUSE_GETATTR: Final = 3
FUSE_SETATTR: Final = 4
FUSE_READLINK: Final = 5
FUSE_SYMLINK: Final = 6
FUSE_MKNOD: Final = 8
FUSE_MKDIR: Final = 9
FUSE_UNLINK: Final = 10
FUSE_RMDIR: Final = 11
FUSE_RENAME: Final = 12
FUSE_LINK: Final = 13
FUSE_OPEN: Final = 14
FUSE_READ: Final = 15
FUSE_WRITE: Final = 16
FUSE_STATFS: Final = 17
FUSE_RELEASE: Final = 18
FUSE_FSYNC: Final = 20
FUSE_FLUSH: Final = 25
FUSE_INIT: Final = 26
FUSE_OPENDIR: Final = 27
FUSE_READDIR: Final = 28
FUSE_RELEASEDIR: Final = 29
FUSE_CREATE: Final = 35
FUSE_INTERRUPT: Final = 36
FUSE_DESTROY: Final = 38
FUSE_IOCTL: Final = 39
FUSE_POLL: Final = 40
FUSE_BATCH_FORGET: Final = 42
FUSE_FALLOCATE: Final = 43
FUSE_RENAME2: Final = 45

FUSE_ATOMIC_O_TRUNC: Final = 1 << 3
"""An open with O_TRUNC stays one request; a device node ignores the flag."""
FUSE_PARALLEL_DIROPS: Final = 1 << 18
FUSE_INIT_EXT: Final = 1 << 30
"""There is `flags2`, the flags from bit 32 on."""
FUSE_PASSTHROUGH: Final = 1 << 37
"""Linux 6.9: another file, which the server named, may be mapped, read and written in place of a file."""

FOPEN_DIRECT_IO: Final = 1 << 0
FOPEN_NONSEEKABLE: Final = 1 << 2
FOPEN_STREAM: Final = 1 << 4
FOPEN_NOFLUSH: Final = 1 << 5
"""Linux 5.16: no request at each close(), only FUSE_RELEASE at the last."""
FOPEN_PARALLEL_DIRECT_WRITES: Final = 1 << 6
FOPEN_PASSTHROUGH: Final = 1 << 7

FUSE_DEV_IOC_BACKING_OPEN: Final = 0x4010E501
"""Of `/dev/fuse`, with BACKING_MAP: its result is a backing id for `OPEN_OUT`. Needs CAP_SYS_ADMIN of the host."""

FATTR_MODE: Final = 1 << 0
FATTR_UID: Final = 1 << 1
FATTR_GID: Final = 1 << 2
FATTR_SIZE: Final = 1 << 3

IN_HEADER: Final = struct.Struct("=IIQQIIII")
"""`struct fuse_in_header`: len, opcode, unique, nodeid, uid, gid, tid in the mounter's PID namespace, padding."""
OUT_HEADER: Final = struct.Struct("=IiQ")
"""`struct fuse_out_header`: len, -errno, unique."""
INIT_IN: Final = struct.Struct("=IIII")
"""major, minor, max_readahead, flags; flags2 follows in a newer kernel."""
INIT_IN_FLAGS2: Final = 16
"""Offset of flags2, u32, if the request is long enough."""
INIT_OUT: Final = struct.Struct("=IIIIHHIIHHII24x")
"""major, minor, max_readahead, flags, max_background, congestion_threshold, max_write, time_gran, max_pages,
map_alignment, flags2, max_stack_depth; 64 bytes."""
BACKING_MAP: Final = struct.Struct("=iIQ")
"""fd, flags, padding."""
ENTRY_OUT: Final = struct.Struct("=QQQQII")
"""nodeid, generation, entry_valid (s), attr_valid (s), nanoseconds of both; ATTR follows."""
FORGET_IN: Final = struct.Struct("=Q")
"""The number of lookups of the inode that the kernel forgets."""
BATCH_FORGET_IN: Final = struct.Struct("=II")
"""count, dummy; that many FORGET_ONE follow."""
FORGET_ONE: Final = struct.Struct("=QQ")
"""nodeid, nlookup."""
OPEN_IN: Final = struct.Struct("=II")
"""O_* flags, open_flags."""
READ_IN: Final = struct.Struct("=QQIIQII")
"""fh, offset, size, read_flags, lock_owner, O_* flags, padding; also of READDIR."""
WRITE_IN: Final = struct.Struct("=QQIIQII")
"""fh, offset, size, write_flags, lock_owner, O_* flags, padding; the data follow."""
WRITE_OUT: Final = struct.Struct("=II")
"""size, padding."""
DIRENT: Final = struct.Struct("=QQII")
"""ino, offset of the next entry, name's length, type (the mode's upper four bits); the name, padded to 8, follows."""
OPEN_OUT: Final = struct.Struct("=QII")
"""fh, open_flags (FOPEN_*), backing id."""
RELEASE_IN: Final = struct.Struct("=QIIQ")
"""fh, flags, release_flags, lock_owner."""
ATTR: Final = struct.Struct("=6Q10I")
"""ino, size, blocks, atime, mtime, ctime, their nanoseconds, mode, nlink, uid, gid, rdev, blksize, flags; 88 bytes."""
ATTR_OUT: Final = struct.Struct("=QII")
"""attr_valid (s), attr_valid_nsec, dummy; ATTR follows."""
SETATTR_IN: Final = struct.Struct("=IIQQQQQQIIIIIIII")
"""valid (FATTR_*), padding, fh, size, lock_owner, atime, mtime, ctime, nanoseconds of them, mode, unused, uid, gid,
unused; 88 bytes."""
FUSE_IOCTL_DIR: Final = 1 << 4
"""A flag of IOCTL_IN: the file is a directory."""
IOCTL_IN: Final = struct.Struct("=QIIQII")
"""fh, flags, cmd, arg (the caller's raw pointer), in_size, out_size."""
IOCTL_OUT: Final = struct.Struct("=iIII")
"""result, flags, in_iovs, out_iovs."""
POLL_IN: Final = struct.Struct("=QQII")
"""fh, kh, flags, events."""
POLL_OUT: Final = struct.Struct("=II")
"""revents, padding."""
STATFS_OUT: Final = struct.Struct("=5Q4I24x")
"""blocks, bfree, bavail, files, ffree, bsize, namelen, frsize, padding."""
