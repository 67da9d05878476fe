"""Opens /dev/liveupdate by many paths and with many flags. Prints the answers as JSON: an errno, or the fd's flags."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import json
import os
import struct
import sys
import tempfile
from collections.abc import Callable

from luod.linux import Fd, syscall

NODE = "/dev/liveupdate"
HOW = struct.Struct("=3Q")
NO_XDEV, NO_MAGICLINKS, NO_SYMLINKS, BENEATH, IN_ROOT = 0x01, 0x02, 0x04, 0x08, 0x10
KEPT = os.O_ACCMODE | os.O_PATH | os.O_APPEND | os.O_NONBLOCK | os.O_SYNC | os.O_NOATIME
HERE = -100
"""AT_FDCWD."""
libc = ctypes.CDLL(None, use_errno=True)


def answer(do: Callable[..., int], *arguments: object, **named: object) -> object:
    """Returns the flags of the open file and of its fd, or the name of the errno."""
    try:
        with Fd(do(*arguments, **named)) as opened:
            flags = fcntl.fcntl(opened.fileno(), fcntl.F_GETFL)
            return [flags & KEPT, fcntl.fcntl(opened.fileno(), fcntl.F_GETFD)]
    except OSError as error:
        return errno.errorcode[error.errno or 0]


def result(value: int) -> int:
    """Returns what a call of libc returned, or raises OSError."""
    if value == -1:
        raise OSError(ctypes.get_errno(), "libc")
    return value


def openat(directory: int, path: bytes | int, flags: int, mode: int = 0) -> int:
    """Opens a path, or what is at an address. os.open sets O_CLOEXEC."""
    address = ctypes.c_void_p(path) if isinstance(path, int) else path
    return result(libc.openat(directory, address, flags, mode))


def creat() -> int:
    return result(libc.syscall(85, NODE.encode(), 0o600))


def openat2(directory: int, path: str, how: bytes) -> int:
    return syscall("openat2", directory, path.encode(), how, len(how))


def how(flags: int = os.O_RDWR, mode: int = 0, resolve: int = 0, tail: bytes = b"") -> bytes:
    return HOW.pack(flags, mode, resolve) + tail


answers: dict[str, object] = {}
with contextlib.ExitStack() as stack:
    place = stack.enter_context(tempfile.TemporaryDirectory(dir="/run"))
    devices = stack.enter_context(Fd(os.open("/dev", os.O_RDONLY)))
    root = stack.enter_context(Fd(os.open("/", os.O_RDONLY)))
    os.symlink(NODE, f"{place}/liveupdate")
    os.symlink("/dev", f"{place}/dev")
    os.symlink("liveupdate-2", f"{place}/liveupdate-1")
    os.symlink("liveupdate-1", f"{place}/liveupdate-2")
    os.mkdir(f"{place}/liveupdate-directory")
    os.chdir("/dev/shm")
    paths = [
        NODE, "//dev///liveupdate", "/dev/./liveupdate", "/dev/../dev/liveupdate", "/../dev/liveupdate",
        "../liveupdate", "./../liveupdate", "liveupdate",
        f"{NODE}/", f"{NODE}//", f"{NODE}/.", f"{NODE}/..", f"{NODE}/../liveupdate", f"{NODE}/x",
        "/dev/null/../liveupdate", "/dev/nothing/../liveupdate", "/dev/shm/../liveupdate",
        f"{place}/liveupdate", f"{place}/liveupdate/", f"{place}/dev/liveupdate", f"{place}/dev/../dev/liveupdate",
        f"{place}/liveupdate-1", f"{place}/liveupdate-directory", f"{place}/nothing/liveupdate",
        "/proc/self/root/dev/liveupdate", "/proc/self/cwd/../liveupdate",
        "/dev/liveupdatex", "/dev/" + "/" * 4096 + "liveupdate", "/dev/" + "./" * 2000 + "liveupdate",
    ]  # fmt: skip
    flags = {
        "RDWR": os.O_RDWR, "RDONLY": os.O_RDONLY, "WRONLY": os.O_WRONLY, "ACCMODE": os.O_ACCMODE,
        "CLOEXEC": os.O_RDWR | os.O_CLOEXEC, "CREAT": os.O_RDWR | os.O_CREAT,
        "CREAT|EXCL": os.O_RDWR | os.O_CREAT | os.O_EXCL, "EXCL": os.O_RDWR | os.O_EXCL,
        "TRUNC": os.O_RDWR | os.O_TRUNC,
        "NOFOLLOW": os.O_RDWR | os.O_NOFOLLOW, "DIRECTORY": os.O_RDONLY | os.O_DIRECTORY,
        "CREAT|DIRECTORY": os.O_RDWR | os.O_CREAT | os.O_DIRECTORY, "TMPFILE": os.O_RDWR | os.O_TMPFILE,
        "PATH": os.O_PATH, "PATH|NOFOLLOW": os.O_PATH | os.O_NOFOLLOW, "PATH|DIRECTORY": os.O_PATH | os.O_DIRECTORY,
        "DIRECT": os.O_RDWR | os.O_DIRECT, "NOATIME": os.O_RDWR | os.O_NOATIME, "NONBLOCK": os.O_RDWR | os.O_NONBLOCK,
        "APPEND|SYNC": os.O_RDWR | os.O_APPEND | os.O_SYNC, "unknown": os.O_RDWR | 1 << 28,
    }  # fmt: skip
    for path in paths:
        answers[f"path {path.replace(place, 'PLACE')[:60]}"] = answer(openat, HERE, path.encode(), os.O_RDWR)
    for name, value in flags.items():
        for path in (NODE, f"{NODE}/", f"{place}/liveupdate"):
            answers[f"{name} {path.replace(place, 'PLACE')}"] = answer(openat, HERE, path.encode(), value, 0o600)
        answers[f"openat2 {name}"] = answer(openat2, HERE, NODE, how(value))
    answers["directory fd"] = answer(os.open, "liveupdate", os.O_RDWR, dir_fd=devices.fileno())
    answers["directory fd, absolute"] = answer(os.open, NODE, os.O_RDWR, dir_fd=devices.fileno())
    answers["directory fd of the root"] = answer(os.open, "dev/liveupdate", os.O_RDWR, dir_fd=root.fileno())
    answers["no directory fd"] = answer(openat, 12345, b"liveupdate", os.O_RDWR)
    answers["no directory fd, absolute"] = answer(openat, 12345, NODE.encode(), os.O_RDWR)
    for name, resolve in {
        "nothing": 0, "no xdev": NO_XDEV, "no magic links": NO_MAGICLINKS, "no symlinks": NO_SYMLINKS,
        "beneath": BENEATH, "in root": IN_ROOT, "beneath, in root": BENEATH | IN_ROOT, "unknown": 1 << 20,
    }.items():  # fmt: skip
        answers[f"resolve {name}, absolute"] = answer(openat2, HERE, NODE, how(resolve=resolve))
        answers[f"resolve {name}, below /"] = answer(openat2, root.fileno(), "dev/liveupdate", how(resolve=resolve))
        answers[f"resolve {name}, absolute below /"] = answer(openat2, root.fileno(), NODE, how(resolve=resolve))
        answers[f"resolve {name}, below /dev"] = answer(openat2, devices.fileno(), "/liveupdate", how(resolve=resolve))
        answers[f"resolve {name}, out of /dev"] = answer(
            openat2, devices.fileno(), "../dev/liveupdate", how(resolve=resolve)
        )
        answers[f"resolve {name}, link"] = answer(openat2, HERE, f"{place}/liveupdate", how(resolve=resolve))
        answers[f"resolve {name}, magic"] = answer(
            openat2, HERE, "/proc/self/root/dev/liveupdate", how(resolve=resolve)
        )
    answers["how with a mode"] = answer(openat2, HERE, NODE, how(mode=0o600))
    answers["how with a zero tail"] = answer(openat2, HERE, NODE, how(tail=bytes(8)))
    answers["how with a tail"] = answer(openat2, HERE, NODE, how(tail=b"x"))
    answers["how too short"] = answer(openat2, HERE, NODE, how()[:16])
    answers["how of a page and a byte"] = answer(openat2, HERE, NODE, how(tail=bytes(4073)))
    answers["how unreadable"] = answer(syscall, "openat2", HERE, NODE.encode(), 8, 24)
    answers["path unreadable"] = answer(openat, HERE, 8, os.O_RDWR)
    if os.uname().machine == "x86_64":
        answers["creat"] = answer(creat)
    with Fd(os.open(NODE, os.O_RDWR)):
        answers["while it is open"] = answer(os.open, NODE, os.O_RDWR)
        answers["while it is open, slash"] = answer(os.open, f"{NODE}/", os.O_RDWR)
        answers["while it is open, EXCL"] = answer(os.open, NODE, os.O_RDWR | os.O_CREAT | os.O_EXCL)
    os.chroot(place)
    answers["chroot"] = answer(os.open, NODE, os.O_RDWR)
    answers["chroot, directory fd"] = answer(os.open, "liveupdate", os.O_RDWR, dir_fd=devices.fileno())
    answers["chroot, current directory"] = answer(os.open, "../liveupdate", os.O_RDWR)
    os.fchdir(root.fileno())
    os.chroot(".")
json.dump(answers, sys.stdout)
