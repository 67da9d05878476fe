"""Memory for a live update: memfds that are writable after the kexec, in large pages."""

from __future__ import annotations

import errno
import mmap
import os

from luod import linux
from luod import memory as machine
from luod.errors import BadInput, KernelRefused
from luod.linux import Fd
from luod.liveupdate.session import check_text
from luod.static import Final

_MADV_POPULATE_WRITE: Final = 23
_MADV_COLLAPSE: Final = 25
_MAP_FIXED: Final = 0x10
_HUGE_PAGE: Final = "/sys/kernel/mm/transparent_hugepage/hpage_pmd_size"
_HUGE_PAGE_OF_X86: Final = 2 << 20
_UNSUPPORTED: Final = (errno.EINVAL, errno.EAGAIN, errno.EBUSY, errno.ENOMEM, errno.EPERM)


_NOEXEC_HINT: Final = (
    "the sysctl vm.memfd_noexec is 2, which forbids it; a memfd that may not be executed (F_SEAL_EXEC) would come back "
    "read-only after a live update. Set the sysctl to 1 in this PID namespace and in those above it"
)

_NAME_MAX: Final = 249
"""The maximum length of a memfd's name in bytes."""


def memory(size: int, name: str = "luod", *, populate: bool = True) -> Fd:
    """Returns a new memfd of `size` bytes for a guest's or a program's memory; the caller owns it.

    It has no F_SEAL_EXEC, with which it would be read-only after the kexec (docs/kernel.md, 0), also where
    `vm.memfd_noexec` is 1. It is allocated now, in huge pages where the kernel has them for memfds, since the time of
    PRESERVE_FD and RETRIEVE_FD depends on the number of pages: 512 MiB are retrieved in 208 ms in pages of 4 KiB, in 2
    ms in pages of 2 MiB (docs/hazards.md, H3). PRESERVE_FD would allocate it anyway. `populate=False` leaves that to
    the first touch.

    Raises BadInput: size or name. Raises NotEnoughMemory: more than is free; touching it would get the caller killed.
    Raises KernelRefused: EMFILE, ENOMEM (strict overcommit), EACCES (`vm.memfd_noexec=2`), EFBIG (RLIMIT_FSIZE).
    """
    given: object = size
    if not isinstance(given, int) or size <= 0:
        raise BadInput(f"the size of memory must be a positive integer: {size!r:.100}")
    check_text(name, "a memfd's name")
    if "\0" in name or len(name.encode("utf-8", "surrogateescape")) > _NAME_MAX:
        raise BadInput(f"a memfd's name has up to {_NAME_MAX} bytes and no NUL: {name!r:.100}")
    if populate:
        # Nothing is lost if this fails, so an unreadable limit does not refuse it.
        machine.require(
            size, machine.known(machine.free()), f"memory of {size} bytes", hint="free some, or ask for less"
        )
    fd = new_memfd(name, size, executable=True)
    if populate:
        try:
            _populate(fd, size)
        except BaseException:
            fd.close()
            raise
    return fd


def new_memfd(name: str, size: int, *, executable: bool) -> Fd:
    """Returns `luod.linux.memfd`'s memfd. Raises KernelRefused for its OSError."""
    try:
        return linux.memfd(name, size, executable=executable)
    except OSError as error:
        code = error.errno or 0
        forbidden = executable and code == errno.EACCES
        kind = "a memfd that may be executed" if forbidden else "a memfd"
        raise KernelRefused(
            code,
            "memfd_create",
            f"{kind} of {size} bytes: {os.strerror(code)}",
            hint=_NOEXEC_HINT if forbidden else "",
        ) from None


def _populate(fd: Fd, size: int) -> None:
    """Allocates the memory, in huge pages where there are any.

    It is mapped where a huge page may begin, which Python's own mmap cannot do. Elsewhere MADV_COLLAPSE is EINVAL and
    all pages are small, unless `shmem_enabled` allows memfds huge pages. It is `never` by default. Measured on Linux
    7.3.
    """
    huge = _huge_page()
    try:
        base = linux.syscall("mmap", 0, size + huge, 0, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0)
    except OSError as error:
        raise KernelRefused(error.errno or 0, "mmap", f"no memory to map {size} bytes") from None
    try:
        address = -(-base // huge) * huge
        access = mmap.PROT_READ | mmap.PROT_WRITE
        linux.syscall("mmap", address, size, access, mmap.MAP_SHARED | _MAP_FIXED, fd.fileno(), 0)
        # Each is optional: a kernel before 5.14, without huge pages, or short of them, still gives the memory.
        for advice in (mmap.MADV_HUGEPAGE, _MADV_POPULATE_WRITE, _MADV_COLLAPSE):
            try:
                linux.syscall("madvise", address, size, advice)
            except OSError as error:
                if error.errno not in _UNSUPPORTED:
                    raise KernelRefused(error.errno or 0, "madvise") from None
    finally:
        linux.syscall("munmap", base, size + huge)


def _huge_page() -> int:
    """Returns the bytes of a huge page, or of a page on a kernel without huge pages."""
    try:
        with open(_HUGE_PAGE, encoding="ascii") as file:
            return int(file.read())
    except OSError:
        return _HUGE_PAGE_OF_X86
