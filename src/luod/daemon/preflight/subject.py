"""What preflight is asked about: the files and the command line of a next kernel. For `luod.daemon.updates.update`.

It is apart from `luod.daemon.preflight.check`, which reads them: that is imported when there is something to read,
since the start of serve lies in the blackout.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from luod.linux import Fd

Fingerprint = tuple[int, ...]


@dataclass(frozen=True)
class Subject:
    """What is looked at. Whose the fds are is said where one is made."""

    kernel: Fd
    initrd: Fd | None
    command_line: str
    loads: int = 3
    """How often kexec_file_load(2) is still called until the jump: by LoadKernel, when the update begins, and while
    guests freeze.
    """

    def fingerprint(self) -> tuple[Fingerprint, ...]:
        """Another one when a file was written to, or is another file. OSError."""
        return tuple(fingerprint(fd) for fd in (self.kernel, self.initrd) if fd is not None)

    def duplicate(self) -> Subject:
        """The same with fds of its own, the caller's to close. OSError."""
        kernel = self.kernel.duplicate()
        try:
            initrd = None if self.initrd is None else self.initrd.duplicate()
        except OSError:
            kernel.close()
            raise
        return Subject(kernel, initrd, self.command_line, self.loads)

    def close(self) -> None:
        for fd in (self.kernel, self.initrd):
            if fd is not None:
                fd.close()


def fingerprint(fd: Fd) -> Fingerprint:
    found = os.fstat(fd.fileno())
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
