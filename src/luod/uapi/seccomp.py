"""linux/seccomp.h, linux/filter.h and linux/audit.h: the part for a filter with a user-space listener. Data only.

`luod.emulator.trap` assembles and installs the filter and answers its notifications.
"""

from __future__ import annotations

import struct

from luod.static import Final

SECCOMP_SET_MODE_FILTER: Final = 1
SECCOMP_FILTER_FLAG_NEW_LISTENER: Final = 1 << 3
SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV: Final = 1 << 5
"""Linux 5.19. Once the listener has received a call, only a fatal signal ends the caller's wait."""

SECCOMP_RET_ERRNO: Final = 0x00050000
SECCOMP_RET_USER_NOTIF: Final = 0x7FC00000
SECCOMP_RET_ALLOW: Final = 0x7FFF0000

SECCOMP_USER_NOTIF_FLAG_CONTINUE: Final = 1
SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP: Final = 1
SECCOMP_ADDFD_FLAG_SEND: Final = 2

SECCOMP_IOCTL_NOTIF_RECV: Final = 0xC0502100
SECCOMP_IOCTL_NOTIF_SEND: Final = 0xC0182101
SECCOMP_IOCTL_NOTIF_ID_VALID: Final = 0x40082102
SECCOMP_IOCTL_NOTIF_ADDFD: Final = 0x40182103
SECCOMP_IOCTL_NOTIF_SET_FLAGS: Final = 0x40082104
"""Linux 6.6; its argument is the value, SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP, not a pointer."""

NOTIF: Final = struct.Struct("=QIIiIQ6Q")
"""`struct seccomp_notif`: id, tid of the caller, flags, then seccomp_data: nr, arch, instruction pointer, args[6]."""
NOTIF_RESP: Final = struct.Struct("=QqiI")
"""`struct seccomp_notif_resp`: id, value, -errno, flags."""
NOTIF_ADDFD: Final = struct.Struct("=QIIII")
"""`struct seccomp_notif_addfd`: id, flags, srcfd, newfd, newfd_flags."""

DATA_NR: Final = 0
DATA_ARCH: Final = 4
DATA_ARGS: Final = 16
"""Offsets in `struct seccomp_data`; each of the six arguments has 8 bytes, the low half first (little-endian)."""

AUDIT_ARCH_X86_64: Final = 0xC000003E
AUDIT_ARCH_I386: Final = 0x40000003
AUDIT_ARCH_AARCH64: Final = 0xC00000B7

BPF_LD_W_ABS: Final = 0x20
BPF_JMP_JEQ_K: Final = 0x15
BPF_JMP_JGE_K: Final = 0x35
BPF_ALU_AND_K: Final = 0x54
BPF_RET_K: Final = 0x06
SOCK_FILTER: Final = struct.Struct("=HBBI")
"""`struct sock_filter`: code, jump if true, jump if false, k. Jumps count instructions after the next."""
