"""System calls and fd ownership that Python's standard library lacks.

There is no policy and no knowledge of live update here: that is in `luod.liveupdate` and `luod.kexec`. ctypes, select
and warnings are imported on first use: luod and VMMs start while guests are paused.
"""

from __future__ import annotations

import errno
import fcntl
import os
import sys

from luod.errors import BadInput, KernelRefused
from luod.static import TYPE_CHECKING, Any, Final, Protocol, Self
from luod.uapi.memfd import (
    F_ADD_SEALS,
    F_GET_SEALS,
    F_SEAL_SEAL,
    MFD_ALLOW_SEALING,
    MFD_CLOEXEC,
    MFD_EXEC,
    MFD_NOEXEC_SEAL,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import TracebackType

MS_BIND: Final = 4096
LONGEST_POLL: Final = 86400.0
"""Seconds to wait in one call of poll(2), which takes no more than 24 days."""

SO_PEERGROUPS: Final = 59
SO_PEERPIDFD: Final = 77

_F_DUPFD_QUERY: Final = 1027
"""Linux 6.10."""

_NUMBERS: Final[dict[str, dict[str, int]]] = {
    "x86_64": {
        "reboot": 169, "kexec_load": 246, "kexec_file_load": 320, "seccomp": 317, "pidfd_getfd": 438,
        "setns": 308, "unshare": 272, "mount": 165, "umount2": 166, "prctl": 157, "kcmp": 312,
        "memfd_create": 319, "mmap": 9, "munmap": 11, "madvise": 28, "capget": 125, "capset": 126,
        "openat2": 437,
    },
    "aarch64": {
        "reboot": 142, "kexec_load": 104, "kexec_file_load": 294, "seccomp": 277, "pidfd_getfd": 438,
        "setns": 268, "unshare": 97, "mount": 40, "umount2": 39, "prctl": 167, "kcmp": 272,
        "memfd_create": 279, "mmap": 222, "munmap": 215, "madvise": 233, "capget": 90, "capset": 91,
        "openat2": 437,
    },
}  # fmt: skip


class HasFileno(Protocol):
    """Anything with an fd: a file, a socket, an `Fd`."""

    def fileno(self) -> int: ...


class Resource:
    """Owns something until `close()`, which `with` calls."""

    __slots__ = ()

    def close(self) -> None:
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Fd(Resource):
    """An fd with one owner: the holder of this object. Closed by `close()` or `with`, or passed on by `detach()`.

    It has `fileno()`, so the standard library accepts it in place of a file. If it is garbage-collected while open it
    is closed with a ResourceWarning, which fails a test.
    """

    __slots__ = ("__weakref__", "_fd")

    def __init__(self, fd: int) -> None:
        """Takes ownership of `fd`."""
        if fd < 0:
            raise BadInput(f"not an fd: {fd}")
        self._fd = fd

    def fileno(self) -> int:
        """Returns the fd, which this object still owns. Raises BadInput: it is closed."""
        if self._fd < 0:
            raise BadInput("the fd is closed")
        return self._fd

    @property
    def closed(self) -> bool:
        return self._fd < 0

    def detach(self) -> int:
        """Returns the fd, which the caller owns from now on."""
        fd = self.fileno()
        self._fd = -1
        return fd

    def duplicate(self) -> Fd:
        """Returns a duplicate (same open file description, close-on-exec) with an owner of its own.

        Raises KernelRefused: EMFILE.
        """
        number = self.fileno()
        try:
            return Fd(fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, 0))
        except OSError as error:
            raise KernelRefused(error.errno or 0, "fcntl(F_DUPFD_CLOEXEC)") from None

    def close(self) -> None:
        """Closes the fd. Idempotent."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)

    def __del__(self) -> None:
        if getattr(self, "_fd", -1) >= 0:
            if not sys.is_finalizing():  # nothing can be imported then, and the kernel closes the fd
                import warnings

                warnings.warn(f"{self!r} was never closed", ResourceWarning, source=self, stacklevel=2)
            self.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._fd if self._fd >= 0 else 'closed'}>"


_libc_syscall: Callable[..., int] | None = None
_numbers: dict[str, int] = {}
"""The numbers of this machine's system calls, once `syscall` ran."""


def syscall(name: str, *arguments: Any) -> int:
    """Makes the system call `name`; arguments are ints, bytes, ctypes objects or None.

    Returns the kernel's result; raises OSError with its errno. The bytes of an argument must outlive the call.
    """
    global _libc_syscall
    import ctypes

    if _libc_syscall is None:
        machine = os.uname().machine
        if machine not in _NUMBERS:
            raise OSError(38, f"no system call numbers for {machine}")
        _numbers.update(_NUMBERS[machine])
        _libc_syscall = ctypes.CDLL(None, use_errno=True).syscall
        _libc_syscall.restype = ctypes.c_long
    converted = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    result: int = _libc_syscall(ctypes.c_long(_numbers[name]), *converted)
    if result == -1:
        code = ctypes.get_errno()
        raise OSError(code, f"{name}: {os.strerror(code)}")
    return result


def return_freed_memory() -> None:
    """Makes glibc return the pages that it keeps of freed memory to the kernel. Does nothing with another C library.

    Otherwise it keeps tens of MiB: large blocks, depending on earlier ones, and all below a block that is in use.
    """
    import ctypes

    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def memfd(name: str, size: int, *, executable: bool = True, sealing: bool = True) -> Fd:
    """Returns a new memfd of `size` bytes, close-on-exec. Raises OSError.

    `executable` sets MFD_EXEC, so that `vm.memfd_noexec=1` does not add F_SEAL_EXEC. A live update turns that seal into
    all seals: such a memfd is read-only afterwards. If `vm.memfd_noexec=2` forbids it, this fails with EACCES. Without
    `executable` the sysctl decides about the seal, and the call works under every value of it. Kernels before 6.3 have
    neither the flags nor the seal.
    """
    flags = MFD_CLOEXEC | (MFD_ALLOW_SEALING if sealing else 0)
    try:
        fd = Fd(os.memfd_create(name, flags | (MFD_EXEC if executable else 0)))
    except OSError as error:
        if error.errno == errno.EACCES and not executable:
            # Linux 6.3 to 6.5 do not imply the flag if the sysctl requires it.
            fd = Fd(os.memfd_create(name, flags | MFD_NOEXEC_SEAL))
        elif error.errno == errno.EINVAL:
            fd = Fd(os.memfd_create(name, flags))
        else:
            raise
    try:
        os.ftruncate(fd.fileno(), size)
        if not sealing:
            _forbid_seals(fd)
    except OSError:
        fd.close()
        raise
    return fd


def _forbid_seals(fd: Fd) -> None:
    """Adds F_SEAL_SEAL if it is missing: a memfd that the sysctl made MFD_NOEXEC_SEAL allows seals."""
    if not fcntl.fcntl(fd.fileno(), F_GET_SEALS) & F_SEAL_SEAL:
        fcntl.fcntl(fd.fileno(), F_ADD_SEALS, F_SEAL_SEAL)


def pidfd_getfd(pidfd: int, target: int) -> Fd:
    """Returns a duplicate (close-on-exec) of fd `target` in the process of `pidfd`.

    Raises OSError: EBADF, it is not open.
    """
    return Fd(syscall("pidfd_getfd", pidfd, target, 0))


def same_file(file: HasFileno, among: Mapping[str, int]) -> str | None:
    """Returns the name of an fd in `among` of the same open file description; None also on a kernel that cannot tell.

    It compares with each, so `among` should have only those of the same `memory_identity`.
    """
    number, query = file.fileno(), fcntl.fcntl
    try:
        for name, other in among.items():
            if query(other, _F_DUPFD_QUERY, number):
                return name
    except OSError:
        pass
    return None


def memory_identity(file: HasFileno) -> tuple[int, int] | None:
    """Returns device and inode of a memfd, None for another file. Makes no call that can block."""
    try:
        fcntl.fcntl(file.fileno(), F_GET_SEALS)
    except OSError:
        return None
    found = os.fstat(file.fileno())
    return found.st_dev, found.st_ino


def has_ended(pidfd: HasFileno, *, within: float | None = 0.0) -> bool:
    """Returns whether the process of `pidfd` has ended, reaped or not. Waits up to `within` seconds for it, and not
    longer than LONGEST_POLL; None: for ever.
    """
    import select

    poll = select.poll()  # select() takes no fd above 1023
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(None if within is None else min(within, LONGEST_POLL) * 1000))


def pid_of(pidfd: HasFileno) -> int | None:
    """Returns the pid of the process of `pidfd`; None: it has ended, or is in no PID namespace of this /proc.

    Raises OSError: there is no free fd, or no /proc.
    """
    with open(f"/proc/self/fdinfo/{pidfd.fileno()}", encoding="ascii") as info:
        pid = next((int(line.split()[1]) for line in info if line.startswith("Pid:")), -1)
    return pid if pid > 0 else None


def process_number(pidfd: HasFileno) -> int:
    """Returns a number for the process of `pidfd` that no other process of this boot gets: the inode of its pidfds.

    Returns 0 before Linux 6.9, where all pidfds have one inode. The process must be another one than the caller's.
    """
    own = os.pidfd_open(os.getpid())
    try:
        here = os.fstat(own)
    finally:
        os.close(own)
    found = os.fstat(pidfd.fileno())
    return 0 if (found.st_dev, found.st_ino) == (here.st_dev, here.st_ino) else found.st_ino


def boot_id() -> str:
    """Returns the id of this boot of the kernel. Raises OSError."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()
