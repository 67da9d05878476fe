"""Makes one kind of system call of this process fail with an errno of one's choice, for good: a seccomp filter.

For errnos that a machine gives only in distress, such as RETRIEVE_FD without memory. The calls are real, and so is the
kernel that answers; only what it answers is chosen. Used by `tests.programs.library`.
"""

from __future__ import annotations

import ctypes
import platform

from luod.linux import syscall
from luod.uapi import seccomp as api

_NUMBERS = {
    "x86_64": {
        "ioctl": 16,
        "openat": 257,
        "reboot": 169,
        "kexec_file_load": 320,
        "process_vm_readv": 310,
        "pidfd_getfd": 438,
    },
    "aarch64": {
        "ioctl": 29,
        "openat": 56,
        "reboot": 142,
        "kexec_file_load": 294,
        "process_vm_readv": 270,
        "pidfd_getfd": 438,
    },
}
_EVERYWHERE = {"pidfd_getfd": 438}
_SECCOMP_RET_ERRNO = 0x00050000
_PR_SET_NO_NEW_PRIVS = 38


class _SockFprog(ctypes.Structure):
    _fields_ = (("len", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def deny(call: str, code: int, *, argument: int = 0, value: int | None = None) -> None:
    """Makes `call` fail with errno `code` from now on, for this process and its children.

    With `value`, it fails only if the argument of that number, from 0, has that value in its low 32 bits.
    """
    load, jump, give = api.BPF_LD_W_ABS, api.BPF_JMP_JEQ_K, api.BPF_RET_K
    number = (_NUMBERS[platform.machine()] | _EVERYWHERE)[call]
    program = [(load, 0, 0, api.DATA_NR), (jump, 0, 1 if value is None else 3, number)]
    if value is not None:
        program += [(load, 0, 0, api.DATA_ARGS + 8 * argument), (jump, 0, 1, value & 0xFFFFFFFF)]
    program += [(give, 0, 0, _SECCOMP_RET_ERRNO | code), (give, 0, 0, api.SECCOMP_RET_ALLOW)]
    code_bytes = b"".join(api.SOCK_FILTER.pack(*instruction) for instruction in program)
    syscall("prctl", _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    filters = _SockFprog(len(program), code_bytes)
    syscall("seccomp", api.SECCOMP_SET_MODE_FILTER, 0, ctypes.byref(filters))
