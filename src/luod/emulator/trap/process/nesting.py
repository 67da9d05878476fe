"""Whether a thread is in a PID namespace of its own inside the machine, as after unshare(1) or in a container.

There reboot(2) is about that namespace alone, and never about the kernel (reboot_pid_ns() of kernel/pid_namespace.c).
"""

from __future__ import annotations

import os

from luod.emulator.trap.process.procfs import status_field


def is_nested(tid: int) -> bool:
    """Returns whether the thread's PID namespace is below its machine's, which is a child of the supervisor's.

    So the initial PID namespace of the host is never one, nor is the supervisor's or the machine's. A thread stays in
    its namespace all its life. Raises Errno(ESRCH) or OSError when it is gone.
    """
    return _depth(tid) > _depth(os.getpid()) + 1


def _depth(tid: int) -> int:
    """Returns the number of PID namespaces that have the thread, from that of /proc down."""
    return len(status_field(tid, "NSpid:").split())
