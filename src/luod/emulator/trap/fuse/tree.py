"""Serves a directory over FUSE: each lookup asks a `FileSystem`, and the kernel caches nothing.

Paths are relative to the mount, whose root is "". A node that is `unique` gets a new inode at each lookup, so that an
inode number identifies one open file, from outside too.
"""

from __future__ import annotations

import errno
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from luod.emulator.model.ports import Errno
from luod.emulator.model.results import Blocked
from luod.emulator.trap.fuse.server import FuseServer, Request
from luod.linux import Fd
from luod.uapi import fuse as uapi

_CHANGES: Final = frozenset(
    {uapi.FUSE_SYMLINK, uapi.FUSE_MKNOD, uapi.FUSE_MKDIR, uapi.FUSE_UNLINK, uapi.FUSE_RMDIR}
    | {uapi.FUSE_RENAME, uapi.FUSE_LINK, uapi.FUSE_RENAME2}
)
"""These get EPERM. Every other unknown request gets ENOSYS: the kernel does without it and does not ask again."""

Answer = Callable[[int | Errno], None]


@dataclass(frozen=True)
class Node:
    """A file, directory or link at a path. `mode` includes the file type, `size` is in bytes."""

    mode: int
    unique: bool = False
    size: int = 0


@dataclass(frozen=True)
class Opened:
    """An open file. The kernel maps the file with the id `backing` in its place; with 0 it cannot be mapped shared."""

    handle: int
    backing: int = 0


class FileSystem(Protocol):
    """The contents of the directory. Every method may raise Errno."""

    def look(self, path: str) -> Node: ...

    def names(self, path: str) -> Sequence[str]: ...

    def target(self, path: str) -> str:
        """Returns the target of a symbolic link."""
        ...

    def open(self, path: str, inode: int, tid: int) -> Opened: ...

    def read(self, handle: int, offset: int, length: int, tid: int) -> bytes: ...

    def write(self, handle: int, offset: int, data: bytes, tid: int) -> int | Blocked: ...

    def ioctl(self, handle: int, tid: int, command: int, argument: int) -> int | Blocked: ...

    def poll(self, handle: int) -> int:
        """Returns the events of poll(2) that are true of the open file, for as long as it is open."""
        ...

    def release(self, handle: int) -> None:
        """Releases the open file: its last reference is gone."""
        ...

    def wait(self, blocked: Blocked, answer: Answer) -> None:
        """Suspends the caller until `answer` is run, at most once."""
        ...


@dataclass
class _Inode:
    path: str
    node: Node
    looked_up: int = 0


class FuseTree(FuseServer):
    """One mounted directory."""

    flags = uapi.FUSE_ATOMIC_O_TRUNC | uapi.FUSE_PARALLEL_DIROPS | uapi.FUSE_INIT_EXT | uapi.FUSE_PASSTHROUGH

    def __init__(self, fd: Fd, files: FileSystem) -> None:
        super().__init__(fd)
        self._files = files
        self._inodes = {uapi.ROOT_ID: _Inode("", files.look(""))}
        self._last = uapi.ROOT_ID
        self._lasting: dict[tuple[str, int], int] = {}
        self._changed: dict[str, tuple[int, int, int]] = {}
        """Mode, uid and gid of a path after chmod and chown."""

    def _handle(self, request: Request) -> bytes | None:
        node, tid, body = request.node, request.tid, request.body
        match request.opcode:
            case uapi.FUSE_LOOKUP:
                return self._look_up(self._path(node), body)
            case uapi.FUSE_GETATTR:
                return self._attributes(node)
            case uapi.FUSE_READ:
                handle, offset, length, *_ = uapi.READ_IN.unpack_from(body)
                return self._files.read(handle, offset, length, tid)
            case uapi.FUSE_WRITE:
                handle, offset, length, *_ = uapi.WRITE_IN.unpack_from(body)
                data = body[uapi.WRITE_IN.size : uapi.WRITE_IN.size + length]
                result = self._files.write(handle, offset, data, tid)
                return self._later(request.unique, result, lambda count: uapi.WRITE_OUT.pack(count, 0))
            case uapi.FUSE_IOCTL:
                handle, flags, command, argument, _, _ = uapi.IOCTL_IN.unpack_from(body)
                if flags & uapi.FUSE_IOCTL_DIR:  # chattr(1) and lsattr(1) ask directories too
                    raise Errno(errno.ENOTTY)
                result = self._files.ioctl(handle, tid, command, argument)
                return self._later(request.unique, result, lambda value: uapi.IOCTL_OUT.pack(value, 0, 0, 0))
            case uapi.FUSE_POLL:
                return uapi.POLL_OUT.pack(self._files.poll(uapi.POLL_IN.unpack_from(body)[0]), 0)
            case uapi.FUSE_OPEN:
                return self._open(node, tid)
            case uapi.FUSE_RELEASE:
                self._files.release(uapi.RELEASE_IN.unpack_from(body)[0])
                return b""
            case uapi.FUSE_FORGET:
                self._forget(node, uapi.FORGET_IN.unpack_from(body)[0])
                return None
            case uapi.FUSE_BATCH_FORGET:
                end = uapi.BATCH_FORGET_IN.size + uapi.FORGET_ONE.size * uapi.BATCH_FORGET_IN.unpack_from(body)[0]
                for forgotten, count in uapi.FORGET_ONE.iter_unpack(body[uapi.BATCH_FORGET_IN.size : end]):
                    self._forget(forgotten, count)
                return None
            case uapi.FUSE_READLINK:
                return self._files.target(self._path(node)).encode()
            case uapi.FUSE_OPENDIR:
                return uapi.OPEN_OUT.pack(0, 0, 0)
            case uapi.FUSE_READDIR:
                _, offset, length, *_ = uapi.READ_IN.unpack_from(body)
                return self._list(self._path(node), offset, length)
            case uapi.FUSE_SETATTR:
                return self._change(node, body)
            case uapi.FUSE_STATFS:
                return uapi.STATFS_OUT.pack(0, 0, 0, 1, 0, 4096, 255, 4096, 0)
            case uapi.FUSE_RELEASEDIR | uapi.FUSE_DESTROY:
                return b""
            case uapi.FUSE_INTERRUPT:  # a call that sleeps here sleeps for good
                return None
            case uapi.FUSE_FSYNC:
                raise Errno(errno.EINVAL)
            case uapi.FUSE_CREATE:
                raise Errno(errno.EACCES)
        raise Errno(errno.EPERM if request.opcode in _CHANGES else errno.ENOSYS)

    def _path(self, node: int) -> str:
        inode = self._inodes.get(node)
        if inode is None:
            raise Errno(errno.ESTALE)
        return inode.path

    def _later(self, unique: int, result: int | Blocked, pack: Callable[[int], bytes]) -> bytes | None:
        """Returns the reply, or None when it follows once the caller is not blocked any more."""
        if not isinstance(result, Blocked):
            return pack(result)

        def answer(outcome: int | Errno) -> None:
            if isinstance(outcome, Errno):
                self._reply(unique, -outcome.code, b"")
            else:
                self._reply(unique, 0, pack(outcome))

        self._files.wait(result, answer)
        return None

    def _look_up(self, directory: str, body: bytes) -> bytes:
        name = body[: body.index(b"\0")].decode("utf-8", "surrogateescape")
        path = f"{directory}/{name}" if directory else name
        node = self._files.look(path)
        number = None if node.unique else self._lasting.get((path, stat.S_IFMT(node.mode)))
        if number is None:
            number = self._last = self._last + 1
            self._inodes[number] = _Inode(path, node)
            if not node.unique:
                self._lasting[path, stat.S_IFMT(node.mode)] = number
        inode = self._inodes[number]
        inode.node = node
        inode.looked_up += 1
        # Neither the name nor its target may be cached: both change without a notification to the kernel.
        return uapi.ENTRY_OUT.pack(number, 0, 0, 0, 0, 0) + self._attributes_of(number)

    def _forget(self, number: int, count: int) -> None:
        inode = self._inodes.get(number)
        if inode is not None and inode.node.unique:
            inode.looked_up -= count
            if inode.looked_up <= 0:
                del self._inodes[number]

    def _attributes(self, number: int) -> bytes:
        inode = self._inodes.get(number)
        if inode is None:
            raise Errno(errno.ESTALE)
        if not inode.node.unique:
            inode.node = self._files.look(inode.path)
        return uapi.ATTR_OUT.pack(0, 0, 0) + self._attributes_of(number)

    def _attributes_of(self, number: int) -> bytes:
        inode = self._inodes[number]
        mode, uid, gid = self._changed.get(inode.path, (stat.S_IMODE(inode.node.mode), 0, 0))
        kind = stat.S_IFMT(inode.node.mode)
        links = 2 if kind == stat.S_IFDIR else 1
        return uapi.ATTR.pack(number, inode.node.size, 0, 0, 0, 0, 0, 0, 0, kind | mode, links, uid, gid, 0, 4096, 0)

    def _change(self, number: int, body: bytes) -> bytes:
        """Applies chmod and chown to the path, which last until the next boot. A size cannot be set."""
        valid, _, _, *_, mode, _, uid, gid, _ = uapi.SETATTR_IN.unpack_from(body)
        if valid & uapi.FATTR_SIZE:
            raise Errno(errno.EINVAL)
        path, node = self._path(number), self._inodes[number].node
        old_mode, old_uid, old_gid = self._changed.get(path, (stat.S_IMODE(node.mode), 0, 0))
        self._changed[path] = (
            stat.S_IMODE(mode) if valid & uapi.FATTR_MODE else old_mode,
            uid if valid & uapi.FATTR_UID else old_uid,
            gid if valid & uapi.FATTR_GID else old_gid,
        )
        return self._attributes(number)

    def _open(self, number: int, tid: int) -> bytes:
        opened = self._files.open(self._path(number), number, tid)
        flags = uapi.FOPEN_DIRECT_IO | uapi.FOPEN_NOFLUSH | uapi.FOPEN_PARALLEL_DIRECT_WRITES
        if opened.backing:
            flags |= uapi.FOPEN_PASSTHROUGH
        return uapi.OPEN_OUT.pack(opened.handle, flags, opened.backing)

    def _list(self, path: str, offset: int, length: int) -> bytes:
        """Returns directory entries from the `offset`-th on, as many as fit.

        The types are looked up, since a listing may be long.
        """
        entries = b""
        names = (".", "..", *self._files.names(path))
        for index in range(offset, len(names)):
            name = names[index].encode("utf-8", "surrogateescape")
            kind = stat.S_IFDIR
            if index > 1:
                try:
                    kind = stat.S_IFMT(self._files.look(f"{path}/{names[index]}" if path else names[index]).mode)
                except Errno:
                    continue
            entry = uapi.DIRENT.pack(index + 1, index + 1, len(name), kind >> 12) + name
            entry += bytes(-len(entry) % 8)
            if len(entries) + len(entry) > length:
                break
            entries += entry
        return entries
