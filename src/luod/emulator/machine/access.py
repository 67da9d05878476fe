"""Whether this host lets luoemu look into the processes of its machine, as it must to answer their calls.

A container's filter of system calls may let a machine boot and forbid that. Every call would then reach the host.
"""

from __future__ import annotations

import ctypes
import errno
import os
from typing import Final

from luod.emulator.model.ports import Errno
from luod.emulator.trap.process import process_memory
from luod.linux import Fd, pidfd_getfd

_REMEDY: Final = "in a container, start that with --security-opt seccomp=unconfined"


def require() -> None:
    """Raises OSError: process_vm_readv(2) or pidfd_getfd(2) is refused even for this process itself."""
    word = ctypes.create_string_buffer(1)
    try:
        process_memory.read(os.getpid(), ctypes.addressof(word), 1)
    except Errno as error:
        raise _refused("process_vm_readv", error.code) from None
    with Fd(os.pidfd_open(os.getpid())) as this:
        try:
            pidfd_getfd(this.fileno(), this.fileno()).close()
        except OSError as error:
            raise _refused("pidfd_getfd", error.errno or errno.EPERM) from None


def remedies(other: str) -> str:
    """Returns `other`, and what to do about the filter of system calls that this process is under, if it is."""
    with open("/proc/self/status", encoding="ascii", errors="replace") as status:
        return f"{other}; {_REMEDY}" if "Seccomp:\t2\n" in status.read() else other


def _refused(call: str, code: int) -> OSError:
    reason = os.strerror(code)
    return OSError(code, f"this host forbids {call}(2), by which luoemu answers calls ({reason}): {_REMEDY}")
