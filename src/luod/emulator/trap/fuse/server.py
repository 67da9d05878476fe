"""Speaks FUSE over `/dev/fuse`, and serves one device node: a file system whose root is the node itself.

The kernel routes device inodes of a FUSE file system to the real driver, so the node is a regular file. The server
answers its open. Its ioctls arrive with the caller's tid, the command and the raw pointer. Requests are answered in
order, but releases first, and at once unless a handler defers its reply. `tree.py` serves directories over the same
protocol. Mounting is in `machine`.
"""

from __future__ import annotations

import errno
import os
import stat
from abc import ABC, abstractmethod
from typing import Final, NamedTuple, Protocol

from luod.emulator.model.ports import Errno
from luod.linux import Fd
from luod.uapi import fuse as uapi

_BUFFER_SIZE: Final = 1 << 18
_BACKGROUND: Final = 1 << 15
"""The kernel passes this many background requests, such as releases, at once. A delayed release would be a late close.
"""
_SECONDS_ATTRIBUTES_HOLD: Final = 3600
_OPENED: Final = uapi.FOPEN_DIRECT_IO | uapi.FOPEN_NONSEEKABLE | uapi.FOPEN_STREAM | uapi.FOPEN_NOFLUSH
_UNANSWERED: Final = (uapi.FUSE_FORGET, uapi.FUSE_BATCH_FORGET, uapi.FUSE_INTERRUPT)


class Device(Protocol):
    """The device behind the node. Every method may raise Errno."""

    def open(self) -> int:
        """Returns a handle for one open file description."""
        ...

    def release(self, handle: int) -> None:
        """Releases the open file: its last reference is gone."""
        ...

    def ioctl(self, handle: int, tid: int, command: int, argument: int) -> int: ...


class Request(NamedTuple):
    """`unique` identifies it in the reply, `node` is the inode, `tid` the caller's, 0 for a request of the kernel
    itself.
    """

    opcode: int
    unique: int
    node: int
    tid: int
    body: bytes

    @property
    def is_release(self) -> bool:
        return self.opcode == uapi.FUSE_RELEASE


class Unmounted(Exception):
    """The file system was unmounted: there will be no more requests."""


class FuseServer(ABC):
    """One mounted file system. Owns the fd of /dev/fuse. After its close every use of the files fails with ENOTCONN."""

    flags: int = uapi.FUSE_ATOMIC_O_TRUNC
    """The `uapi.FUSE_*` flags that are requested where the kernel offers them."""

    def __init__(self, fd: Fd) -> None:
        self._fd = fd
        self._buffer = bytearray(_BUFFER_SIZE)
        os.set_blocking(fd.fileno(), False)

    def fileno(self) -> int:
        return self._fd.fileno()

    def close(self) -> None:
        self._fd.close()

    def serve(self) -> bool:
        """Answers the requests that are pending now. Returns False when the file system is unmounted.

        Those that follow wait for the next run: programs that ask without a pause would keep all others waiting.

        Releases come first. When the supervisor looks at a caller's fds in /proc, it holds the file for a moment. If
        the caller closes its last fd meanwhile, the kernel sends the release after that moment: perhaps behind an open
        that followed the close.
        """
        try:
            for request in sorted(self._pending(), key=lambda request: not request.is_release):
                self.answer(request)
        except Unmounted:
            return False
        return True

    def _pending(self) -> list[Request]:
        """Returns all pending requests. Raises Unmounted."""
        requests = []
        while (request := self.read()) is not None:
            requests.append(request)
        return requests

    def read(self) -> Request | None:
        """Returns the next pending request, or None. Raises Unmounted."""
        while True:
            try:
                length = os.readv(self._fd.fileno(), [self._buffer])
            except BlockingIOError:
                return None
            except OSError as error:
                if error.errno == errno.ENODEV:
                    raise Unmounted from None
                if error.errno in (errno.ENOENT, errno.EINTR):  # the request was withdrawn while it was read
                    continue
                raise
            _, opcode, unique, node, _, _, tid, _ = uapi.IN_HEADER.unpack_from(self._buffer)
            return Request(opcode, unique, node, tid, bytes(memoryview(self._buffer)[uapi.IN_HEADER.size : length]))

    def answer(self, request: Request) -> None:
        try:
            payload = self._initialise(request.body) if request.opcode == uapi.FUSE_INIT else self._handle(request)
        except Errno as error:
            if request.opcode not in _UNANSWERED:
                self._reply(request.unique, -error.code, b"")
        else:
            if payload is not None and request.opcode not in _UNANSWERED:
                self._reply(request.unique, 0, payload)

    def _reply(self, unique: int, error: int, payload: bytes) -> None:
        header = uapi.OUT_HEADER.pack(uapi.OUT_HEADER.size + len(payload), error, unique)
        try:
            os.write(self._fd.fileno(), header + payload)
        except OSError as failed:
            if failed.errno not in (errno.ENOENT, errno.ENODEV):  # nothing waits for it any more
                raise

    @abstractmethod
    def _handle(self, request: Request) -> bytes | None:
        """Returns the reply without its header. Raises Errno.

        None defers the reply: `_reply` sends it later, with the request's `unique`.
        """

    def _initialise(self, body: bytes) -> bytes:
        major, _, readahead, offered = uapi.INIT_IN.unpack_from(body)
        if major != uapi.KERNEL_VERSION:
            raise Errno(errno.EPROTO)
        if offered & uapi.FUSE_INIT_EXT:
            offered |= int.from_bytes(body[uapi.INIT_IN_FLAGS2 : uapi.INIT_IN_FLAGS2 + 4], "little") << 32
        flags = offered & self.flags
        # Passthrough needs the allowed stacking depth of file systems: on a memfd, 1.
        depth = 1 if flags & uapi.FUSE_PASSTHROUGH else 0
        return uapi.INIT_OUT.pack(
            uapi.KERNEL_VERSION,
            uapi.KERNEL_MINOR_VERSION,
            readahead,
            flags & 0xFFFFFFFF,
            _BACKGROUND,
            _BACKGROUND,
            1 << 16,
            1,
            0,
            0,
            flags >> 32,
            depth,
        )


class FuseNode(FuseServer):
    """One device node."""

    def __init__(self, fd: Fd, device: Device, *, mode: int = 0o600) -> None:
        super().__init__(fd)
        self._device = device
        self._mode = mode
        self._owner = (0, 0)

    def _handle(self, request: Request) -> bytes | None:
        body = request.body
        match request.opcode:
            case uapi.FUSE_GETATTR:
                return self._attributes()
            case uapi.FUSE_SETATTR:
                return self._change(body)
            case uapi.FUSE_OPEN:
                return uapi.OPEN_OUT.pack(self._open(uapi.OPEN_IN.unpack_from(body)[0]), _OPENED, 0)
            case uapi.FUSE_RELEASE:
                self._device.release(uapi.RELEASE_IN.unpack_from(body)[0])
                return b""
            case uapi.FUSE_IOCTL:
                handle, _, command, argument, _, _ = uapi.IOCTL_IN.unpack_from(body)
                result = self._device.ioctl(handle, request.tid, command, argument)
                return uapi.IOCTL_OUT.pack(result, 0, 0, 0)
            case uapi.FUSE_STATFS:
                return uapi.STATFS_OUT.pack(0, 0, 0, 1, 0, 4096, 255, 4096, 0)
            case uapi.FUSE_READ | uapi.FUSE_WRITE | uapi.FUSE_FSYNC:  # the device has no such operations
                raise Errno(errno.EINVAL)
            case uapi.FUSE_FALLOCATE:
                raise Errno(errno.ENODEV)
            case uapi.FUSE_DESTROY | uapi.FUSE_FLUSH:
                return b""
        raise Errno(errno.ENOSYS)

    def _open(self, flags: int) -> int:
        handle = self._device.open()
        if flags & os.O_DIRECT:  # the kernel finds that only once the device has been opened
            self._device.release(handle)
            raise Errno(errno.EINVAL)
        return handle

    def _attributes(self) -> bytes:
        uid, gid = self._owner
        mode = stat.S_IFREG | self._mode
        attributes = uapi.ATTR.pack(uapi.ROOT_ID, 0, 0, 0, 0, 0, 0, 0, 0, mode, 1, uid, gid, 0, 4096, 0)
        return uapi.ATTR_OUT.pack(_SECONDS_ATTRIBUTES_HOLD, 0, 0) + attributes

    def _change(self, body: bytes) -> bytes:
        """Applies chmod and chown, which last until the next boot. A size cannot be set."""
        valid, _, _, *_, mode, _, uid, gid, _ = uapi.SETATTR_IN.unpack_from(body)
        if valid & uapi.FATTR_SIZE:
            raise Errno(errno.EINVAL)
        if valid & uapi.FATTR_MODE:
            self._mode = stat.S_IMODE(mode)
        self._owner = (
            uid if valid & uapi.FATTR_UID else self._owner[0],
            gid if valid & uapi.FATTR_GID else self._owner[1],
        )
        return self._attributes()
