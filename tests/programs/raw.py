"""LUO's ioctls as plain calls on fd numbers, for programs inside a machine. Every OSError is the kernel's own."""

from __future__ import annotations

import ctypes
import fcntl
import os

from luod.linux import syscall
from luod.uapi import kexec as kexec_uapi
from luod.uapi import liveupdate as uapi

__all__ = [
    "BOOT",
    "create",
    "device",
    "errno_of",
    "finish",
    "get_name",
    "jump",
    "load",
    "mmap_library",
    "preserve",
    "retrieve",
    "retrieve_session",
]

BOOT = int(os.environ.get("LUOEMU_BOOT", "0"))


def errno_of(call: object, *arguments: object) -> int:
    """Returns the errno of a failing `call`; 0 if it succeeds."""
    assert callable(call)
    try:
        call(*arguments)
    except OSError as error:
        return error.errno or -1
    return 0


def mmap_library() -> ctypes.CDLL:
    """Returns the C library, whose mmap(2) takes an address: that of Python's module mmap takes none."""
    library = ctypes.CDLL(None, use_errno=True)
    library.mmap.restype = ctypes.c_void_p
    library.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    return library


def device() -> int:
    return os.open(uapi.DEVICE, os.O_RDWR | os.O_CLOEXEC)


def _named(fd: int, command: int, name: bytes) -> int:
    request = bytearray(uapi.CREATE_SESSION.pack(uapi.CREATE_SESSION.size, -1, name))
    fcntl.ioctl(fd, command, request)
    _, session, _ = uapi.CREATE_SESSION.unpack(request)
    return int(session)


def create(fd: int, name: bytes) -> int:
    return _named(fd, uapi.LIVEUPDATE_IOCTL_CREATE_SESSION, name)


def retrieve_session(fd: int, name: bytes) -> int:
    return _named(fd, uapi.LIVEUPDATE_IOCTL_RETRIEVE_SESSION, name)


def preserve(session: int, file: int, token: int) -> None:
    layout = uapi.SESSION_PRESERVE_FD
    fcntl.ioctl(session, uapi.LIVEUPDATE_SESSION_PRESERVE_FD, layout.pack(layout.size, file, token))


def retrieve(session: int, token: int) -> int:
    layout = uapi.SESSION_RETRIEVE_FD
    request = bytearray(layout.pack(layout.size, -1, token))
    fcntl.ioctl(session, uapi.LIVEUPDATE_SESSION_RETRIEVE_FD, request)
    return int(layout.unpack(request)[1])


def finish(session: int) -> None:
    layout = uapi.SESSION_FINISH
    fcntl.ioctl(session, uapi.LIVEUPDATE_SESSION_FINISH, layout.pack(layout.size, 0))


def get_name(session: int) -> bytes:
    layout = uapi.SESSION_GET_NAME
    request = bytearray(layout.pack(layout.size, 0, b""))
    fcntl.ioctl(session, uapi.LIVEUPDATE_SESSION_GET_NAME, request)
    return bytes(layout.unpack(request)[2]).partition(b"\0")[0]


def load(command_line: bytes = b"liveupdate=on kho=on") -> None:
    kernel = os.open(os.environ["LUOEMU_KERNEL"], os.O_RDONLY | os.O_CLOEXEC)
    line = ctypes.create_string_buffer(command_line)
    syscall("kexec_file_load", kernel, -1, len(line), line, kexec_uapi.KEXEC_FILE_NO_INITRAMFS)
    os.close(kernel)


def reboot(command: int) -> None:
    syscall("reboot", kexec_uapi.LINUX_REBOOT_MAGIC1, kexec_uapi.LINUX_REBOOT_MAGIC2, command, 0)


def jump() -> None:
    """Does not return unless it fails."""
    load()
    reboot(kexec_uapi.LINUX_REBOOT_CMD_KEXEC)
