"""The thread that makes a system call, and the arguments of a call that are read from it, as protocols.

`luod.emulator.trap` implements them over real threads and their memory; the model's tests over dictionaries. The files
and the host behind them are in `ports.py`.
"""

from __future__ import annotations

from typing import Protocol

from luod.emulator.model.files import SessionFile
from luod.emulator.model.ports import HostFile

CAP_SYS_BOOT = 22


class Caller(Protocol):
    """The thread whose system call is being answered."""

    def read(self, address: int, length: int) -> bytes:
        """Exactly `length` bytes. Errno(EFAULT) when any of them cannot be read."""
        ...

    def write(self, address: int, data: bytes) -> None:
        """Errno(EFAULT) when any byte cannot be written; a prefix may have been."""
        ...

    def writable(self, address: int, length: int) -> bool:
        """Whether `write` would work there now; changes nothing that can be seen."""
        ...

    def has_free_fd(self) -> bool:
        """Whether an fd could be installed under RLIMIT_NOFILE. Asked before all other checks of a call."""
        ...

    def file(self, fd: int) -> HostFile:
        """A reference the model must close. Errno(EBADF) for what is not open, or only O_PATH."""
        ...

    def install(self, file: SessionFile | HostFile, cloexec: bool) -> int:
        """A new fd number in the caller for `file`, O_RDWR.

        A HostFile (from `Host.take_over`) stays the model's and comes out as the same open file description each
        time it is installed. A SessionFile is released (`Kernel.release`) when its last fd is gone, wherever that is.
        Errno(EMFILE) and the like when it cannot be; then the file was not installed anywhere.
        """
        ...

    def adopt(self, file: HostFile) -> None:
        """A file that `Host.take_over` has just made is the caller's (fsuid, fsgid); one that has an owner keeps it."""
        ...

    def capable(self, capability: int) -> bool:
        """Whether the caller has the capability in the machine (CAP_SYS_BOOT is the only one asked for)."""
        ...


class KexecFiles(Protocol):
    """The arguments of one kexec_file_load that must be read, each at the moment the kernel reads it."""

    def kernel(self) -> bytes:
        """The whole image. Errno(EBADF), Errno(EINVAL) for what is no regular file."""
        ...

    def initrd(self) -> int:
        """Its size in bytes. Not asked with KEXEC_FILE_NO_INITRAMFS. Errno as for `kernel`."""
        ...

    def command_line(self) -> bytes:
        """All `cmdline_len` bytes, the final NUL included; b"" for a length of 0. Errno(EFAULT)."""
        ...


class KexecSegment(Protocol):
    """One segment of kexec_load: `address` is where it goes in physical memory, both sizes are bytes."""

    @property
    def address(self) -> int: ...

    @property
    def length(self) -> int:
        """`memsz`."""
        ...

    def read(self) -> bytes:
        """The buffer, `bufsz` bytes. Errno(EFAULT)."""
        ...
