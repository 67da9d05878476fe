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
        """Returns exactly `length` bytes. Errno(EFAULT) when any of them cannot be read."""
        ...

    def write(self, address: int, data: bytes) -> None:
        """Writes to its memory. Errno(EFAULT) when any byte cannot be written; a prefix may be written then."""
        ...

    def writable(self, address: int, length: int) -> bool:
        """Returns whether `write` would work there now; changes nothing visible."""
        ...

    def has_free_fd(self) -> bool:
        """Returns whether RLIMIT_NOFILE leaves room for an fd. Asked before all other checks of a call."""
        ...

    def file(self, fd: int) -> HostFile:
        """Returns a reference that the model must close. Errno(EBADF) for what is not open, or only O_PATH."""
        ...

    def install(self, file: SessionFile | HostFile, cloexec: bool) -> int:
        """Installs `file` in the caller, O_RDWR, and returns the number of the new fd.

        A HostFile (from `Host.take_over`) stays the model's, and is the same open file description each time it is
        installed. A SessionFile is released (`Kernel.release`) when its last fd is gone, in whatever process.
        Errno(EMFILE) and the like when the file cannot be installed; no process has it then.
        """
        ...

    def adopt(self, file: HostFile) -> None:
        """Gives a file without an owner, as `Host.take_over` makes it, to the caller (fsuid, fsgid)."""
        ...

    def capable(self, capability: int) -> bool:
        """Returns whether the caller has the capability in the machine."""
        ...


class KexecFiles(Protocol):
    """The arguments of one kexec_file_load. Each is read at the moment when the kernel reads it."""

    def kernel(self) -> bytes:
        """Returns the whole image. Errno(EBADF), Errno(EINVAL) for what is not a regular file."""
        ...

    def initrd(self) -> int:
        """Returns its size in bytes; not asked with KEXEC_FILE_NO_INITRAMFS. Errno as for `kernel`."""
        ...

    def command_line(self) -> bytes:
        """Returns all `cmdline_len` bytes, including the final NUL; b"" for a length of 0. Errno(EFAULT)."""
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
        """Returns the buffer, `bufsz` bytes. Errno(EFAULT)."""
        ...
