"""The seccomp filter: assembles it and installs it on the calling process.

It has one comparison for each trapped call, by architecture. `machine` assembles it before it starts an init, and the
init installs it on itself. `trap.supervisor` answers the calls.
"""

from __future__ import annotations

import ctypes
import enum
import errno
import platform
from collections.abc import Iterable
from typing import Final, NamedTuple

from luod.linux import Fd, syscall
from luod.uapi import iommufd, liveupdate, vfio
from luod.uapi import seccomp as uapi


class Call(enum.Enum):
    """A trapped system call, independent of its number on the caller's architecture."""

    IOCTL = "ioctl"
    REBOOT = "reboot"
    KEXEC_LOAD = "kexec_load"
    KEXEC_FILE_LOAD = "kexec_file_load"
    TRUNCATE = "truncate"
    TRUNCATE64 = "truncate64"
    FTRUNCATE = "ftruncate"
    FTRUNCATE64 = "ftruncate64"
    FALLOCATE = "fallocate"
    MADVISE = "madvise"
    PROCESS_MADVISE = "process_madvise"
    CREAT = "creat"
    OPEN = "open"
    OPENAT = "openat"
    OPENAT2 = "openat2"


NUMBERS: Final[dict[int, dict[Call, int]]] = {
    uapi.AUDIT_ARCH_X86_64: {
        Call.IOCTL: 16, Call.REBOOT: 169, Call.KEXEC_LOAD: 246, Call.KEXEC_FILE_LOAD: 320,
        Call.TRUNCATE: 76, Call.FTRUNCATE: 77,
        Call.FALLOCATE: 285, Call.MADVISE: 28, Call.PROCESS_MADVISE: 440,
        Call.CREAT: 85, Call.OPEN: 2, Call.OPENAT: 257, Call.OPENAT2: 437,
    },
    uapi.AUDIT_ARCH_I386: {
        Call.IOCTL: 54, Call.REBOOT: 88, Call.KEXEC_LOAD: 283,
        Call.TRUNCATE: 92, Call.TRUNCATE64: 193, Call.FTRUNCATE: 93, Call.FTRUNCATE64: 194,
        Call.FALLOCATE: 324, Call.MADVISE: 219, Call.PROCESS_MADVISE: 440,
        Call.CREAT: 8, Call.OPEN: 5, Call.OPENAT: 295, Call.OPENAT2: 437,
    },
    uapi.AUDIT_ARCH_AARCH64: {
        Call.IOCTL: 29, Call.REBOOT: 142, Call.KEXEC_LOAD: 104, Call.KEXEC_FILE_LOAD: 294,
        Call.TRUNCATE: 45, Call.FTRUNCATE: 46,
        Call.FALLOCATE: 47, Call.MADVISE: 233, Call.PROCESS_MADVISE: 440,
        Call.OPENAT: 56, Call.OPENAT2: 437,
    },
}  # fmt: skip
"""By AUDIT_ARCH_*. A process on aarch64 may be able to call as one of 32-bit ARM, too, whose numbers are not here."""

_X32: Final = {uapi.AUDIT_ARCH_X86_64: range(0x40000000, 0x80000000)}
"""Numbers of the x32 ABI, by which any program of the architecture can call. ENOSYS, as in most kernels: it would reach
the host's kexec.
"""

SYNC: Final = {uapi.AUDIT_ARCH_X86_64: 162, uapi.AUDIT_ARCH_I386: 36, uapi.AUDIT_ARCH_AARCH64: 81}
"""sync(2), which precedes every kexec. It is answered with success and not done.

It would write all of the host's disks and wait for that, over a kexec in which the host loses nothing. fsync(2) and
similar calls are done.
"""

SWAPS: Final = {
    uapi.AUDIT_ARCH_X86_64: (167, 168),
    uapi.AUDIT_ARCH_I386: (87, 115),
    uapi.AUDIT_ARCH_AARCH64: (224, 225),
}
"""swapon(2) and swapoff(2), which are refused with EPERM: the swap is the host's. CAP_SYS_ADMIN, which init has,
permits them.
"""

CALLS: Final[dict[tuple[int, int], Call]] = {
    (architecture, number): call for architecture, calls in NUMBERS.items() for call, number in calls.items()
}

_HOST_ARCHITECTURES: Final = {
    "x86_64": (uapi.AUDIT_ARCH_X86_64, uapi.AUDIT_ARCH_I386),
    "aarch64": (uapi.AUDIT_ARCH_AARCH64,),
}
_MADV_REMOVE: Final = 9
_RETURN_FDS: Final = (vfio.VFIO_GROUP_GET_DEVICE_FD, iommufd.IOMMU_FAULT_QUEUE_ALLOC)
OPENS: Final = frozenset({Call.CREAT, Call.OPEN, Call.OPENAT, Call.OPENAT2})
"""Trapped on a host without FUSE."""


class _Jump(NamedTuple):
    """A comparison with `value`, and the labels where it leads; "" is the next instruction."""

    value: int
    if_so: str
    otherwise: str = ""
    code: int = uapi.BPF_JMP_JEQ_K
    """The comparison: equal, or at least `value`."""


_Line = bytes | _Jump | str
"""An instruction, a comparison, or the label of the next line."""


def _instruction(code: int, k: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return uapi.SOCK_FILTER.pack(code, if_true, if_false, k)


_ALLOW: Final = _instruction(uapi.BPF_RET_K, uapi.SECCOMP_RET_ALLOW)
_NOTIFY: Final = _instruction(uapi.BPF_RET_K, uapi.SECCOMP_RET_USER_NOTIF)
_DONE: Final = _instruction(uapi.BPF_RET_K, uapi.SECCOMP_RET_ERRNO)  # with errno 0, which is success


_REFUSED: Final = _instruction(uapi.BPF_RET_K, uapi.SECCOMP_RET_ERRNO | errno.EPERM)
_NO_CALL: Final = _instruction(uapi.BPF_RET_K, uapi.SECCOMP_RET_ERRNO | errno.ENOSYS)
"""For numbers that would reach the host's kexec_load(2) and other calls: which numbers these are is not known here."""


def _argument(index: int) -> bytes:
    """Returns the instruction that loads the low half of an argument."""
    return _instruction(uapi.BPF_LD_W_ABS, uapi.DATA_ARGS + 8 * index)


def _assemble(lines: Iterable[_Line]) -> bytes:
    """Returns the instructions. Jumps lead forwards only."""
    code: list[bytes | _Jump] = []
    labels: dict[str, int] = {}
    for line in lines:
        if isinstance(line, str):
            labels[line] = len(code)
        else:
            code.append(line)

    def distance(label: str, at: int) -> int:
        return labels[label] - at - 1 if label else 0

    return b"".join(
        line
        if isinstance(line, bytes)
        else _instruction(line.code, line.value, distance(line.if_so, at), distance(line.otherwise, at))
        for at, line in enumerate(code)
    )


def program(*, trap_opens: bool, with_devices: bool = False, machine: str | None = None) -> bytes:
    """Returns the filter's instructions. Raises OSError(ENOSYS) where the system call numbers are not known.

    `trap_opens` adds OPENS, for machines without FUSE. `with_devices` adds the ioctls of VFIO and
    iommufd that return an fd, which FUSE cannot do. `machine` is a value of platform.machine(), by default the host's.
    """
    architectures = _HOST_ARCHITECTURES.get(machine or platform.machine())
    if architectures is None:
        raise OSError(errno.ENOSYS, f"no system call numbers for {machine or platform.machine()}")
    lines: list[_Line] = [_instruction(uapi.BPF_LD_W_ABS, uapi.DATA_ARCH)]
    high: list[_Line] = []
    if uapi.AUDIT_ARCH_X86_64 in architectures:
        # Numbers from the second half on are negative: of calls that a tracer has skipped.
        high = ["x32", _Jump(_X32[uapi.AUDIT_ARCH_X86_64].stop, "allow again", code=uapi.BPF_JMP_JGE_K), _NO_CALL]
    for architecture in architectures:
        other = [_X32[architecture]] if architecture in _X32 else []
        calls = {c: n for c, n in NUMBERS[architecture].items() if trap_opens or c not in OPENS}
        lines += [
            _Jump(architecture, "", f"not {architecture}"),
            _instruction(uapi.BPF_LD_W_ABS, uapi.DATA_NR),
            *(_Jump(numbers.start, "x32", code=uapi.BPF_JMP_JGE_K) for numbers in other),
            # These three are decided by an argument. All other calls are decided by their number, and the kernel keeps
            # such a decision of a filter that allows: it does not run the filter again (SECCOMP_CACHE).
            _Jump(calls.pop(Call.IOCTL), "ioctl"),
            _Jump(calls.pop(Call.MADVISE), "madvise"),
            _Jump(calls.pop(Call.PROCESS_MADVISE), "process_madvise"),
            *(_Jump(number, "notify") for number in calls.values()),
            *(_Jump(number, "refused") for number in SWAPS[architecture]),
            _Jump(SYNC[architecture], "done", "allow"),
            f"not {architecture}",
        ]
    lines += [
        _NO_CALL,  # of another architecture
        "allow",
        _ALLOW,
        *high,
        "allow again",
        _ALLOW,
        "ioctl",
        _argument(1),
        *((_Jump(command, "notify") for command in _RETURN_FDS) if with_devices else ()),
        # Only the type byte of an ioctl's number counts. All others never leave the kernel.
        _instruction(uapi.BPF_ALU_AND_K, 0xFF00),
        _Jump(liveupdate.LIVEUPDATE_IOCTL_TYPE << 8, "notify", "other argument"),
        "madvise",
        _argument(2),
        _Jump(_MADV_REMOVE, "notify", "other argument"),
        "process_madvise",
        _argument(3),
        _Jump(_MADV_REMOVE, "notify", "other argument"),
        "other argument",
        _ALLOW,
        "notify",
        _NOTIFY,
        "done",
        _DONE,
        "refused",
        _REFUSED,
    ]
    return _assemble(lines)


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
