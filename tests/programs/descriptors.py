"""One fd of every kind that a program can have, by name: what may be preserved, and all that may not.

Used by `questions`, inside a machine; standard library only. Raises OSError where the kernel has no such kind.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import pty
import socket
import tempfile
from collections.abc import Callable
from typing import Final

_libc: Final = ctypes.CDLL(None, use_errno=True)


def _libc_fd(result: int) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def _opened(path: str, flags: int) -> Callable[[], int]:
    return lambda: os.open(path, flags | os.O_CLOEXEC)


def _tmpfs_file(*, linked: bool) -> int:
    fd, path = tempfile.mkstemp(dir="/run")
    if not linked:
        os.unlink(path)
    return fd


def _disk_file() -> int:
    with tempfile.NamedTemporaryFile(dir="/var/tmp", delete=False) as file:
        os.unlink(file.name)
        return os.dup(file.fileno())


def _pipe(end: int) -> int:
    ends = os.pipe()
    os.close(ends[1 - end])
    return ends[end]


def _terminal(end: int) -> int:
    ends = pty.openpty()
    os.close(ends[1 - end])
    return ends[end]


def _socket(family: int, kind: int, protocol: int = 0) -> Callable[[], int]:
    return lambda: socket.socket(family, kind, protocol).detach()


def _signalfd() -> int:
    mask = (ctypes.c_ulong * 16)(1)
    return _libc_fd(_libc.signalfd(-1, ctypes.byref(mask), 0))


def _message_queue() -> int:
    name = f"/questions-{os.getpid()}".encode()
    library = ctypes.CDLL("librt.so.1", use_errno=True)
    fd = library.mq_open(name, os.O_RDWR | os.O_CREAT, 0o600, None)
    library.mq_unlink(name)
    return _libc_fd(fd)


KINDS: Final[dict[str, Callable[[], int]]] = {
    "tmpfs file, linked": lambda: _tmpfs_file(linked=True),
    "tmpfs file, unlinked": lambda: _tmpfs_file(linked=False),
    "tmpfs O_TMPFILE": _opened("/run", os.O_RDWR | os.O_TMPFILE),
    "file on a disk, unlinked": _disk_file,
    "directory": _opened("/", os.O_RDONLY | os.O_DIRECTORY),
    "/proc/self/mem": _opened("/proc/self/mem", os.O_RDWR),
    "/proc/self/status": _opened("/proc/self/status", os.O_RDONLY),
    "/proc/self/ns/net": _opened("/proc/self/ns/net", os.O_RDONLY),
    "/dev/null": _opened("/dev/null", os.O_RDWR),
    "/dev/zero": _opened("/dev/zero", os.O_RDWR),
    "pipe, read end": lambda: _pipe(0),
    "pipe, write end": lambda: _pipe(1),
    "eventfd": lambda: os.eventfd(0),
    "epoll": lambda: _libc_fd(_libc.epoll_create1(0)),
    "inotify": lambda: _libc_fd(_libc.inotify_init1(0)),
    "signalfd": _signalfd,
    "timerfd": lambda: _libc_fd(_libc.timerfd_create(1, 0)),
    "pidfd": lambda: os.pidfd_open(os.getpid()),
    "unix socket": _socket(socket.AF_UNIX, socket.SOCK_STREAM),
    "tcp socket": _socket(socket.AF_INET, socket.SOCK_STREAM),
    "netlink socket": _socket(socket.AF_NETLINK, socket.SOCK_RAW),
    "pty": lambda: _terminal(0),
    "tty": lambda: _terminal(1),
    "message queue": _message_queue,
}
"""How to make each; the fd is the caller's."""


def make(kind: str) -> int:
    """Returns a new fd of `kind`, close-on-exec, owned by the caller. Raises OSError, KeyError."""
    fd = KINDS[kind]()
    with contextlib.suppress(OSError):
        os.set_inheritable(fd, False)
    return fd
