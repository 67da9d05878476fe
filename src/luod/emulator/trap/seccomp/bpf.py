"""The seccomp filter: assembles it and installs it on the calling process.

The filter runs at every system call of the machine, so it is short: one comparison for each trapped call, by
architecture. `machine` assembles it before it starts an init, and the init installs it on itself. `trap.supervisor`
answers the calls.
"""

from __future__ import annotations

import ctypes
import enum
import errno
import platform
from typing import Final

from luod.linux import Fd, syscall
from luod.uapi import liveupdate, vfio
from luod.uapi import seccomp as uapi


class Call(enum.Enum):
    """A trapped system call, independent of its number on the caller's architecture."""

    IOCTL = "ioctl"
    REBOOT = "reboot"
    KEXEC_LOAD = "kexec_load"
    KEXEC_FILE_LOAD = "kexec_file_load"
    OPEN = "open"
    OPENAT = "openat"
    OPENAT2 = "openat2"


NUMBERS: Final[dict[int, dict[Call, int]]] = {
    uapi.AUDIT_ARCH_X86_64: {
        Call.IOCTL: 16, Call.REBOOT: 169, Call.KEXEC_LOAD: 246, Call.KEXEC_FILE_LOAD: 320,
        Call.OPEN: 2, Call.OPENAT: 257, Call.OPENAT2: 437,
    },
    uapi.AUDIT_ARCH_I386: {
        Call.IOCTL: 54, Call.REBOOT: 88, Call.KEXEC_LOAD: 283,
        Call.OPEN: 5, Call.OPENAT: 295, Call.OPENAT2: 437,
    },
    uapi.AUDIT_ARCH_AARCH64: {
        Call.IOCTL: 29, Call.REBOOT: 142, Call.KEXEC_LOAD: 104, Call.KEXEC_FILE_LOAD: 294,
        Call.OPENAT: 56, Call.OPENAT2: 437,
    },
}  # fmt: skip
"""By AUDIT_ARCH_*: every architecture with which a process of this host can enter the kernel (x32 is let through)."""

SYNC: Final = {uapi.AUDIT_ARCH_X86_64: 162, uapi.AUDIT_ARCH_I386: 36, uapi.AUDIT_ARCH_AARCH64: 81}
"""sync(2), which precedes every kexec. It is answered with success and not done.

It would write all of the host's disks and wait for that, over a kexec in which the host loses nothing. fsync(2) and
similar calls are done.
"""

CALLS: Final[dict[tuple[int, int], Call]] = {
    (architecture, number): call for architecture, calls in NUMBERS.items() for call, number in calls.items()
}

_HOST_ARCHITECTURES: Final = {
    "x86_64": (uapi.AUDIT_ARCH_X86_64, uapi.AUDIT_ARCH_I386),
    "aarch64": (uapi.AUDIT_ARCH_AARCH64,),
}
_OPENS: Final = frozenset({Call.OPEN, Call.OPENAT, Call.OPENAT2})


def _instruction(code: int, k: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return uapi.SOCK_FILTER.pack(code, if_true, if_false, k)


def program(*, trap_opens: bool, group_devices: bool = False, machine: str | None = None) -> bytes:
    """Returns the filter's instructions. Raises OSError(ENOSYS) where the system call numbers are not known.

    `trap_opens` adds open, openat and openat2, for machines without FUSE. `group_devices` adds the one ioctl of VFIO
    that returns an fd, which FUSE cannot do. `machine` is a value of platform.machine(), by default the host's.
    """
    architectures = _HOST_ARCHITECTURES.get(machine or platform.machine())
    if architectures is None:
        raise OSError(errno.ENOSYS, f"no system call numbers for {machine or platform.machine()}")
    allow = _instruction(uapi.BPF_RET_K, uapi.SECCOMP_RET_ALLOW)
    notify = _instruction(uapi.BPF_RET_K, uapi.SECCOMP_RET_USER_NOTIF)
    done = _instruction(uapi.BPF_RET_K, uapi.SECCOMP_RET_ERRNO)  # with errno 0, which is success
    code = [_instruction(uapi.BPF_LD_W_ABS, uapi.DATA_ARCH)]
    for architecture in architectures:
        calls = {c: n for c, n in NUMBERS[architecture].items() if trap_opens or c not in _OPENS}
        ioctl = calls.pop(Call.IOCTL)
        # It compares only the type byte of an ioctl's number. All others never leave the kernel.
        command = [
            _instruction(uapi.BPF_LD_W_ABS, uapi.DATA_ARGS + 8),
            _instruction(uapi.BPF_ALU_AND_K, 0xFF00),
            _instruction(uapi.BPF_JMP_JEQ_K, liveupdate.LIVEUPDATE_IOCTL_TYPE << 8, len(calls) + 3, 0),
            allow,
        ]
        if group_devices:
            to_notify = len(command) - 1 + len(calls) + 2
            command.insert(1, _instruction(uapi.BPF_JMP_JEQ_K, vfio.VFIO_GROUP_GET_DEVICE_FD, to_notify, 0))
        block = [
            _instruction(uapi.BPF_LD_W_ABS, uapi.DATA_NR),
            _instruction(uapi.BPF_JMP_JEQ_K, ioctl, 0, len(command)),
            *command,
        ]
        numbers = list(calls.values())
        for index, number in enumerate(numbers):
            block.append(_instruction(uapi.BPF_JMP_JEQ_K, number, len(numbers) - index + 1, 0))
        block += [_instruction(uapi.BPF_JMP_JEQ_K, SYNC[architecture], 2, 0), allow, notify, done]
        code.append(_instruction(uapi.BPF_JMP_JEQ_K, architecture, 0, len(block)))
        code += block
    code.append(allow)
    return b"".join(code)


class _SockFprog(ctypes.Structure):
    _fields_ = (("len", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def install(instructions: bytes) -> Fd:
    """Installs the filter on the calling thread and its future children. Returns the listener, which the caller owns.

    Needs CAP_SYS_ADMIN in the process's user namespace (and not no_new_privs: setuid programs keep working). Raises
    OSError: EBUSY under another filter with a listener, EACCES without the capability, EINVAL where seccomp lacks this.
    """
    prog = _SockFprog(len(instructions) // uapi.SOCK_FILTER.size, instructions)
    flags = uapi.SECCOMP_FILTER_FLAG_NEW_LISTENER | uapi.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
    return Fd(syscall("seccomp", uapi.SECCOMP_SET_MODE_FILTER, flags, ctypes.byref(prog)))
