"""What the modelled kernel needs of the world outside it, as protocols, and the one exception they share.

`luod.emulator.trap` implements them over real threads, memory and memfds; the model's tests over dictionaries.
Nothing here does anything: there are no defaults, and the model reaches memory, fds and contents only through these.
"""

from __future__ import annotations

import enum
from collections.abc import Hashable
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from luod.emulator.model.files import SessionFile

CAP_SYS_BOOT = 22


class Errno(Exception):
    """A system call fails with `code`, a positive errno. Raised by ports and by the model alike."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class Kind(enum.Enum):
    """What a file is, as far as a file handler's can_preserve asks."""

    MEMFD = "memfd"
    """Any shmem file with link count 0: memfds, O_TMPFILE on tmpfs, an unlinked tmpfs file."""
    HUGETLB = "hugetlb"
    SESSION = "session"
    LIVEUPDATE = "liveupdate"
    VFIO_DEVICE = "vfio device"
    """This and the next three are the model's own files (`vfio.files.ModelFile`), whichever way they were opened."""
    VFIO_GROUP = "vfio group"
    VFIO_CONTAINER = "vfio container"
    IOMMUFD = "iommufd"
    OTHER = "other"


class HostFile(Protocol):
    """A counted reference to an open file, held for the model until `close()`; whoever received it closes it once.

    Closing it never takes the file from a process that has it open too.
    """

    @property
    def kind(self) -> Kind: ...

    @property
    def identity(self) -> Hashable:
        """The inode: equal for duplicates and reopened files, and for nothing else that is alive."""
        ...

    def size(self) -> int:
        """Bytes (i_size)."""
        ...

    def seals(self) -> int:
        """F_SEAL_* as F_GET_SEALS tells them; 1 (F_SEAL_SEAL) for a shmem file that allows none."""
        ...

    def position(self) -> int:
        """File offset of the open file description, in bytes."""
        ...

    def fill_holes(self) -> None:
        """Give every page of the file memory. Errno(ENOMEM) or whatever the host said."""
        ...

    def close(self) -> None: ...


class Host(Protocol):
    """The hardware under one kernel after another: what outlives a jump, and where the log goes."""

    def take_over(self, kept: HostFile, *, size: int, seals: int, position: int) -> HostFile:
        """A new memfd with the first `size` bytes of `kept`, `seals` and `position`: mode 0777, O_RDWR | O_LARGEFILE.

        `kept` stays the caller's. Errno(ENOMEM), Errno(ENOSPC) when the host has no room; nothing is left behind then.
        """
        ...

    def log(self, line: str) -> None:
        """One line of the kernel's log, without level and time."""
        ...


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
