"""Runs a command in a PID namespace in which the sysctl vm.memfd_noexec has a value: VALUE COMMAND…. Needs root."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from luod.linux import syscall

_CLONE_NEWPID = 0x20000000
_CLONE_NEWNS = 0x00020000
_MS_REC_PRIVATE = 0x4000 | (1 << 18)


def main(value: str, *command: str) -> int:
    syscall("unshare", _CLONE_NEWPID | _CLONE_NEWNS)
    pid = os.fork()
    if pid == 0:
        syscall("mount", b"none", b"/", None, _MS_REC_PRIVATE, None)
        syscall("mount", b"proc", b"/proc", b"proc", 0, None)
        Path("/proc/sys/vm/memfd_noexec").write_text(value, encoding="ascii")
        os.execvp(command[0], command)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
