"""The subject of preflight: the files and the command line of a next kernel. For `luod.daemon.updates.update`.

It is separate from `luod.daemon.preflight.check`, which reads the files and is imported on demand, since the start of
serve is part of the blackout.
"""

from __future__ import annotations

import os

from luod.frozen import frozen
from luod.static import TYPE_CHECKING

if TYPE_CHECKING:
    from luod.linux import Fd


Fingerprint = tuple[int, ...]
_CHUNK = 1 << 20


@frozen
class Subject:
    """The files to check. The maker of one documents the owner of its fds."""

    kernel: Fd
    initrd: Fd | None
    command_line: str
    loads: int = 2
    """The number of remaining kexec_file_load(2) calls until the kexec: by LoadKernel, and when the update begins."""

    def fingerprint(self) -> tuple[Fingerprint, ...]:
        """Returns a value that changes when a file was written to or replaced. Raises OSError."""
        return tuple(fingerprint(fd) for fd in (self.kernel, self.initrd) if fd is not None)

    def duplicate(self) -> Subject:
        """Returns the same with fds of its own, which the caller owns. Raises OSError."""
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


def same_contents(one: Subject, other: Subject) -> bool:
    """Returns whether the files of both have the same bytes. It reads them, so it is for a thread. Raises OSError."""
    if (one.initrd is None) != (other.initrd is None):
        return False
    pairs = [(one.kernel, other.kernel)]
    if one.initrd is not None and other.initrd is not None:
        pairs.append((one.initrd, other.initrd))
    return all(fingerprint(a) == fingerprint(b) or _same_bytes(a, b) for a, b in pairs)


def _same_bytes(one: Fd, other: Fd) -> bool:
    if os.fstat(one.fileno()).st_size != os.fstat(other.fileno()).st_size:
        return False
    offset = 0
    while part := os.pread(one.fileno(), _CHUNK, offset):
        if part != os.pread(other.fileno(), _CHUNK, offset):
            return False
        offset += len(part)
    return True


def fingerprint(fd: Fd) -> Fingerprint:
    found = os.fstat(fd.fileno())
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
