"""Runs inside a machine: a disk that hangs when it is told to, `python3 -m tests.programs.hanging_disk SOURCE TARGET`.

It serves the files of the directory SOURCE at TARGET, which it creates, by FUSE. A JSON line on stdin is answered: true
makes each request that changes a file, or that writes it to the disk, hang; false executes those that hang, in order.
The answer is the number of requests that hang.
"""

from __future__ import annotations

import errno
import json
import os
import selectors
import stat
import sys
from collections.abc import Callable

from luod.emulator.model.ports import Errno
from luod.emulator.trap.fuse.server import FuseServer, Request
from luod.linux import Fd, syscall
from luod.uapi import fuse as uapi

_CHANGING = (
    uapi.FUSE_WRITE,
    uapi.FUSE_FSYNC,
    uapi.FUSE_CREATE,
    uapi.FUSE_UNLINK,
    uapi.FUSE_RENAME,
    uapi.FUSE_RENAME2,
    uapi.FUSE_LINK,
    uapi.FUSE_FALLOCATE,
    uapi.FUSE_SETATTR,
    _FSYNCDIR := 30,
)
_RENAME_IN = 8
_RENAME2_IN = 16
_CREATE_IN = 16
_LINK_IN = 8


class Disk(FuseServer):
    """One directory without subdirectories. Inode numbers are those of the files below."""

    def __init__(self, fd: Fd, source: str) -> None:
        super().__init__(fd)
        self._source = source
        self._files = {uapi.ROOT_ID: os.open(source, os.O_PATH)}
        """Each inode that was looked up, with a file that keeps it."""
        self.hangs = False
        self.waiting: list[Request] = []

    def answer(self, request: Request) -> None:
        if self.hangs and request.opcode in _CHANGING:
            self.waiting.append(request)
        else:
            super().answer(request)

    def go_on(self) -> None:
        self.hangs = False
        waiting, self.waiting = self.waiting, []
        for request in waiting:
            self.answer(request)

    def _handle(self, request: Request) -> bytes | None:
        handler = _HANDLERS.get(request.opcode)
        if handler is None:
            raise Errno(errno.ENOSYS)
        try:
            return handler(self, request)
        except OSError as error:
            raise Errno(error.errno or errno.EIO) from None

    def _path(self, name: bytes) -> str:
        return os.path.join(self._source, os.fsdecode(name))

    def _of(self, node: int) -> str:
        """Returns a path to an inode that was looked up, also without a name. Raises OSError: ESTALE."""
        if node not in self._files:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return f"/proc/self/fd/{self._files[node]}"

    def attributes(self, request: Request) -> bytes:
        return uapi.ATTR_OUT.pack(0, 0, 0) + _attributes(os.stat(self._of(request.node)))

    def look_up(self, request: Request) -> bytes:
        return self._entry(request.body.rstrip(b"\0"))

    def _entry(self, name: bytes) -> bytes:
        found = os.lstat(self._path(name))
        if found.st_ino not in self._files:
            self._files[found.st_ino] = os.open(self._path(name), os.O_PATH | os.O_NOFOLLOW)
        return uapi.ENTRY_OUT.pack(found.st_ino, 0, 0, 0, 0, 0) + _attributes(found)

    def open(self, request: Request) -> bytes:
        flags = uapi.OPEN_IN.unpack_from(request.body)[0] & ~(os.O_NOFOLLOW | os.O_DIRECT)
        return uapi.OPEN_OUT.pack(os.open(self._of(request.node), flags & ~os.O_APPEND), uapi.FOPEN_DIRECT_IO, 0)

    def create(self, request: Request) -> bytes:
        name = request.body[_CREATE_IN:].rstrip(b"\0")
        flags, mode = uapi.OPEN_IN.unpack_from(request.body)
        file = os.open(self._path(name), (flags & ~os.O_APPEND) | os.O_CREAT, stat.S_IMODE(mode))
        return self._entry(name) + uapi.OPEN_OUT.pack(file, uapi.FOPEN_DIRECT_IO, 0)

    def release(self, request: Request) -> bytes:
        os.close(uapi.RELEASE_IN.unpack_from(request.body)[0])
        return b""

    def read_file(self, request: Request) -> bytes:
        handle, offset, size, *_ = uapi.READ_IN.unpack_from(request.body)
        return os.pread(handle, size, offset)

    def write(self, request: Request) -> bytes:
        handle, offset, size, *_ = uapi.WRITE_IN.unpack_from(request.body)
        data = request.body[uapi.WRITE_IN.size : uapi.WRITE_IN.size + size]
        return uapi.WRITE_OUT.pack(os.pwrite(handle, data, offset), 0)

    def set_attributes(self, request: Request) -> bytes:
        valid, _, _, size, *_, mode, _, _uid, _gid, _ = uapi.SETATTR_IN.unpack_from(request.body)
        path = self._of(request.node)
        if valid & uapi.FATTR_SIZE:
            os.truncate(path, size)
        if valid & uapi.FATTR_MODE:
            os.chmod(path, stat.S_IMODE(mode))
        return self.attributes(request)

    def unlink(self, request: Request) -> bytes:
        os.unlink(self._path(request.body.rstrip(b"\0")))
        return b""

    def rename(self, request: Request) -> bytes:
        header = _RENAME_IN if request.opcode == uapi.FUSE_RENAME else _RENAME2_IN
        old, new, *_ = request.body[header:].split(b"\0")
        os.rename(self._path(old), self._path(new))
        return b""

    def link(self, request: Request) -> bytes:
        node, name = int.from_bytes(request.body[:_LINK_IN], "little"), request.body[_LINK_IN:].rstrip(b"\0")
        os.link(self._of(node), self._path(name))
        return self._entry(name)

    def allocate(self, request: Request) -> bytes:
        handle, offset, length = (int.from_bytes(request.body[at : at + 8], "little") for at in (0, 8, 16))
        os.posix_fallocate(handle, offset, length)
        return b""

    def sync(self, request: Request) -> bytes:
        return b""

    def open_directory(self, request: Request) -> bytes:
        return uapi.OPEN_OUT.pack(0, 0, 0)

    def list_directory(self, request: Request) -> bytes:
        _, offset, size, *_ = uapi.READ_IN.unpack_from(request.body)
        entries = b""
        for number, name in enumerate(sorted(os.listdir(os.fsencode(self._source)))[offset:], offset + 1):
            entry = uapi.DIRENT.pack(os.lstat(self._path(name)).st_ino, number, len(name), stat.S_IFREG >> 12) + name
            entry += bytes(-len(entry) % 8)
            if len(entries) + len(entry) > size:
                break
            entries += entry
        return entries

    def space(self, request: Request) -> bytes:
        return uapi.STATFS_OUT.pack(1 << 20, 1 << 20, 1 << 20, 1 << 20, 1 << 20, 4096, 255, 4096, 0)

    def nothing(self, request: Request) -> bytes:
        return b""


def _attributes(found: os.stat_result) -> bytes:
    number = found.st_ino if stat.S_ISREG(found.st_mode) else uapi.ROOT_ID
    times = int(found.st_atime), int(found.st_mtime), int(found.st_ctime)
    sizes = number, found.st_size, found.st_blocks
    return uapi.ATTR.pack(*sizes, *times, 0, 0, 0, found.st_mode, found.st_nlink, 0, 0, 0, 4096, 0)


_HANDLERS: dict[int, Callable[[Disk, Request], bytes]] = {
    uapi.FUSE_LOOKUP: Disk.look_up,
    uapi.FUSE_GETATTR: Disk.attributes,
    uapi.FUSE_SETATTR: Disk.set_attributes,
    uapi.FUSE_OPEN: Disk.open,
    uapi.FUSE_CREATE: Disk.create,
    uapi.FUSE_READ: Disk.read_file,
    uapi.FUSE_WRITE: Disk.write,
    uapi.FUSE_RELEASE: Disk.release,
    uapi.FUSE_UNLINK: Disk.unlink,
    uapi.FUSE_RENAME: Disk.rename,
    uapi.FUSE_RENAME2: Disk.rename,
    uapi.FUSE_LINK: Disk.link,
    uapi.FUSE_FALLOCATE: Disk.allocate,
    uapi.FUSE_FSYNC: Disk.sync,
    _FSYNCDIR: Disk.sync,
    uapi.FUSE_OPENDIR: Disk.open_directory,
    uapi.FUSE_READDIR: Disk.list_directory,
    uapi.FUSE_STATFS: Disk.space,
    uapi.FUSE_RELEASEDIR: Disk.nothing,
    uapi.FUSE_FLUSH: Disk.nothing,
    uapi.FUSE_DESTROY: Disk.nothing,
    uapi.FUSE_FORGET: Disk.nothing,
    uapi.FUSE_BATCH_FORGET: Disk.nothing,
    uapi.FUSE_INTERRUPT: Disk.nothing,
}


def main(source: str, target: str) -> int:
    for directory in (source, target):
        os.makedirs(directory, 0o700, exist_ok=True)
    device = Fd(os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC))
    options = f"fd={device.fileno()},rootmode=40700,user_id=0,group_id=0,allow_other"
    syscall("mount", b"hanging", target.encode(), b"fuse", 0, options.encode())
    disk = Disk(device, source)
    with selectors.DefaultSelector() as both:
        both.register(disk, selectors.EVENT_READ)
        both.register(sys.stdin, selectors.EVENT_READ)
        while True:
            for key, _events in both.select():
                if key.fileobj is disk:
                    if not disk.serve():
                        return 0
                elif line := sys.stdin.readline():
                    if json.loads(line):
                        disk.hangs = True
                    else:
                        disk.go_on()
                    print(json.dumps(len(disk.waiting)), flush=True)
                else:
                    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
