"""The thread that makes a system call, and the arguments that a call reads from it, as protocols.

`luod.emulator.trap` implements them over real threads and their memory, the model's tests over dictionaries. The files
and the host behind them are in `ports.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

from luod.emulator.model.files import SessionFile
from luod.emulator.model.ports import HostFile

CAP_SYS_BOOT = 22


class Caller(Protocol):
    """The thread whose system call is being answered."""

    progress: dict[int, int]
    """The ranges of memory that an `Unfinished` call is working on: first address, and the address to go on from."""

    def read(self, address: int, length: int) -> bytes:
        """Returns exactly `length` bytes. Raises Errno(EFAULT) when any of them cannot be read."""
        ...

    def write(self, address: int, data: bytes) -> None:
        """Writes to its memory. Raises Errno(EFAULT) when any byte cannot be written; a prefix may be written then."""
        ...

    def writable(self, address: int, length: int) -> bool:
        """Returns whether `write` would succeed now. Changes nothing visible."""
        ...

    def has_free_fd(self) -> bool:
        """Returns whether RLIMIT_NOFILE leaves room for an fd. Precedes all other checks of a call."""
        ...

    def file(self, fd: int) -> HostFile:
        """Returns a reference that the model must close.

        Raises Errno(EBADF) for an fd that is not open, or only O_PATH.
        """
        ...

    def install(self, file: SessionFile | HostFile, cloexec: bool) -> int:
        """Installs `file` in the caller, O_RDWR, and returns the number of the new fd.

        A HostFile (from `Host.take_over`) stays the model's. It is the same open file description each time it is
        installed. A SessionFile is released (`Kernel.release`) when its last fd in any process is closed. Raises
        Errno(EMFILE) or another errno when the file cannot be installed; no process has it then.
        """
        ...

    def adopt(self, file: HostFile) -> None:
        """Sets the owner of a file without an owner, as `Host.take_over` makes it, to the caller (fsuid, fsgid)."""
        ...

    def capable(self, capability: int) -> bool:
        """Returns whether the caller has the capability in the machine."""
        ...


IMAGE_FRONT: Final = 4096
"""Bytes: as much as the checks of an image's header need."""
IMAGE_IN_MEMORY: Final = 512 << 20
"""Bytes: the largest image that is loaded. While it is read, no call of the machine is answered (docs/divergences.md).
"""


class KexecFiles(Protocol):
    """The arguments of one kexec_file_load. Each is read at the moment when the kernel reads it."""

    def kernel(self, accept: Callable[[bytes, int], object]) -> bytes:
        """Returns the whole image, b"" for an empty file. Runs `accept` before, and raises what it raises.

        `accept` gets the first IMAGE_FRONT bytes and the size of the image in bytes. Raises Errno: EBADF, EINVAL for a
        file that is not regular, ETXTBSY, EFBIG, ENOMEM.
        """
        ...

    def initrd(self) -> int:
        """Returns its size in bytes. Not used with KEXEC_FILE_NO_INITRAMFS. Raises the errnos of `kernel`."""
        ...

    def command_line(self) -> bytes:
        """Returns all `cmdline_len` bytes, including the final NUL; b"" for a length of 0. Raises Errno(EFAULT)."""
        ...


class KexecSegment(Protocol):
    """One segment of kexec_load. `address` is its place in physical memory; both sizes are in bytes."""

    @property
    def address(self) -> int: ...

    @property
    def length(self) -> int:
        """Returns `memsz`."""
        ...

    @property
    def buffer_length(self) -> int:
        """Returns `bufsz`."""
        ...

    def read(self) -> bytes:
        """Returns the buffer, `bufsz` bytes. Raises Errno(EFAULT)."""
        ...
