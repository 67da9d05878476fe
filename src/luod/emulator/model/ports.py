"""The modelled kernel's ports to the outside, as protocols, and the exception that all of it shares.

`luod.emulator.trap` implements them over memfds and a real log, the model's tests over dictionaries. The thread that
makes a system call is in `caller.py`. There are no default implementations. The model reaches contents only through
these protocols.
"""

from __future__ import annotations

import enum
from collections.abc import Hashable
from typing import Final, Protocol

PAGE: Final = 4096
"""Bytes of a page."""


class Errno(Exception):
    """A system call fails with `code`, a positive errno. Both the ports and the model raise it."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class Retryable(Errno):
    """A RETRIEVE_FD fails and may be repeated. An Errno of another type is final."""


class Kind(enum.Enum):
    """The kinds of files that can_preserve of a file handler distinguishes."""

    MEMFD = "memfd"
    """Any shmem file with link count 0: memfds, O_TMPFILE on tmpfs, an unlinked tmpfs file."""
    TMPFS = "tmpfs"
    """A shmem file with a name: a file of a tmpfs."""
    HUGETLB = "hugetlb"
    SESSION = "session"
    LIVEUPDATE = "liveupdate"
    VFIO_DEVICE = "vfio device"
    """This and the next three are files of the model itself (`vfio.files.ModelFile`), independent of how they were
    opened.
    """
    VFIO_GROUP = "vfio group"
    VFIO_CONTAINER = "vfio container"
    IOMMUFD = "iommufd"
    OTHER = "other"


class HostFile(Protocol):
    """A counted reference to an open file, held for the model until `close()`; its receiver closes it once.

    Closing it never closes the file of a process that has it open too.
    """

    @property
    def kind(self) -> Kind: ...

    @property
    def identity(self) -> Hashable:
        """Returns the identity of the inode: equal for duplicates and reopened files, different for all other open
        files.
        """
        ...

    @property
    def name(self) -> bytes:
        """Returns the name that memfd_create gave a memfd; b"" for other files."""
        ...

    def size(self) -> int:
        """Returns the size in bytes (i_size)."""
        ...

    def seals(self) -> int:
        """Returns F_SEAL_* as F_GET_SEALS does; 1 (F_SEAL_SEAL) for a shmem file that allows no seals."""
        ...

    def position(self) -> int:
        """Returns the file offset of the open file description, in bytes."""
        ...

    def writable(self) -> bool:
        """Returns whether the open file description is open for writing."""
        ...

    def pin(self) -> None:
        """Allocates every page of the file and keeps it in use until `close`: F_SEAL_WRITE fails with EBUSY then.

        Raises Errno(ENOMEM), or the errno of the host. May raise `results.Unfinished`: it goes on when it is run again,
        also on another reference to the file.
        """
        ...

    def close(self) -> None: ...


class Host(Protocol):
    """The hardware under all kernels: memory that outlives a kexec, and the log."""

    def take_over(self, kept: HostFile, *, size: int, seals: int, position: int, name: bytes = b"") -> HostFile:
        """Returns a new memfd with the first `size` bytes of `kept`: mode 0777, O_RDWR | O_LARGEFILE.

        `kept` stays the caller's. Raises Errno(ENOMEM), Errno(ENOSPC) when the host has no room; no memfd is left then.
        May raise `results.Unfinished`: with the same arguments it goes on. `kept.close()` gives that up.
        """
        ...

    def fill(self, target: HostFile, kept: HostFile, *, size: int) -> None:
        """Gives `target`, an empty file of a tmpfs, the first `size` bytes of `kept`. Both stay the caller's.

        Raises Errno as `take_over`; the target may have a part of the bytes then.
        """
        ...

    def memory(self) -> int:
        """Returns the bytes of memory that the machine has."""
        ...

    def log(self, line: str) -> None:
        """Writes one line of the kernel's log, without level and time."""
        ...
