"""A part of the model's sysfs as a FUSE file system: directories, links and attributes."""

from __future__ import annotations

import errno
import itertools
import stat
from collections.abc import Callable, Sequence
from select import EPOLLIN, EPOLLOUT, EPOLLRDNORM, EPOLLWRNORM
from typing import Final

from luod.emulator.model.ports import Errno
from luod.emulator.model.results import Blocked, Waiting
from luod.emulator.model.vfio.sysfs.sysfs import Attribute, Directory, Link
from luod.emulator.model.vfio.vfio import Vfio
from luod.emulator.trap.fuse.tree import Answer, Node, Opened

_SIZE: Final = 4096
"""The size of every attribute in bytes, as in Linux. Its contents are shorter."""

_ALWAYS: Final = EPOLLIN | EPOLLOUT | EPOLLRDNORM | EPOLLWRNORM

Wait = Callable[[Blocked, Answer], None]


class SysfsFiles:
    """`FileSystem` of what is below `top`, a path relative to /sys."""

    def __init__(self, vfio: Vfio, top: str, wait: Wait) -> None:
        self._sysfs = vfio.sysfs
        self._top = top
        self._handles = itertools.count(1)
        self._open: dict[int, str] = {}
        self.wait = wait

    def _full(self, path: str) -> str:
        return f"{self._top}/{path}" if path else self._top

    def look(self, path: str) -> Node:
        match self._sysfs.lookup(self._full(path)):
            case Directory():
                return Node(stat.S_IFDIR | 0o755)
            case Link():
                return Node(stat.S_IFLNK | 0o777)
            case Attribute(mode=mode):
                # Each has its own inode: while one writer sleeps, the kernel keeps the inode's lock.
                return Node(stat.S_IFREG | mode, unique=True, size=_SIZE)

    def names(self, path: str) -> Sequence[str]:
        node = self._sysfs.lookup(self._full(path))
        if not isinstance(node, Directory):
            raise Errno(errno.ENOTDIR)
        return node.names

    def target(self, path: str) -> str:
        node = self._sysfs.lookup(self._full(path))
        if not isinstance(node, Link):
            raise Errno(errno.EINVAL)
        return node.target

    def open(self, path: str, inode: int, tid: int) -> Opened:
        self._sysfs.lookup(self._full(path))
        handle = next(self._handles)
        self._open[handle] = self._full(path)
        return Opened(handle)

    def read(self, handle: int, offset: int, length: int, tid: int) -> bytes:
        return self._sysfs.read(self._opened(handle))[offset : offset + length]

    def write(self, handle: int, offset: int, data: bytes, tid: int) -> int | Blocked:
        data = data[:_SIZE]  # all that Linux takes of one write(2)
        result = self._sysfs.write(self._opened(handle), data, offset)
        if not isinstance(result, Waiting):
            return result
        poll = result.poll
        return Waiting(result.until, lambda: None if poll() is None else len(data))

    def _opened(self, handle: int) -> str:
        """Returns the path of an open file. Raises Errno: EBADF, ENODEV when there is no such file any more."""
        path = self._open.get(handle)
        if path is None:
            raise Errno(errno.EBADF)
        try:
            self._sysfs.lookup(path)
        except Errno:
            raise Errno(errno.ENODEV) from None
        return path

    def ioctl(self, handle: int, tid: int, command: int, argument: int) -> int | Blocked:
        raise Errno(errno.ENOTTY)

    def poll(self, handle: int) -> int:
        return _ALWAYS

    def release(self, handle: int) -> None:
        self._open.pop(handle, None)
