"""FUSE file systems of /dev/vfio with /dev/iommu: which of the model's files are open, and their inodes.

There are two mounts. Programs see one. The other is hidden and has the files that the model hands out itself.
"""

from __future__ import annotations

import errno
import fcntl
import itertools
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from luod.emulator.model.ports import PAGE, Errno
from luod.emulator.model.results import Blocked, Unfinished, Waiting
from luod.emulator.model.vfio.files import ModelFile
from luod.emulator.model.vfio.ports import DeviceCaller
from luod.emulator.model.vfio.vfio import Vfio
from luod.emulator.model.vfio.vfio_pci.cdev import VfioDeviceFile
from luod.emulator.trap.devices.memory import Bar, refusal
from luod.emulator.trap.fuse.tree import Answer, Node, Opened
from luod.emulator.trap.process.placeholder import Identity
from luod.uapi import fuse, iommufd, vfio

IOMMU_NAME: Final = ".iommu"
"""The target of /dev/iommu, which is a symbolic link: an unlisted file in /dev/vfio.

A file that is itself a mount point would have one inode for all its openers.
"""
_MODES: Final = {iommufd.DEVICE: 0o660, vfio.CONTAINER: 0o666}
_SIZE: Final = vfio.VFIO_PCI_NUM_REGIONS << vfio.PCI_OFFSET_SHIFT
"""A device has no size. This one lets programs that check a regular file's size before mmap, such as Python, map it."""


@dataclass
class _Open:
    file: ModelFile
    identity: Identity
    can_be_mapped: bool
    mapped: bool = False


class OpenFiles:
    """Every device file of a boot that is open in a process, on either mount."""

    def __init__(self, model: Vfio, thread: Callable[[int], DeviceCaller], mapped: Callable[[], None]) -> None:
        """`thread` returns the caller of a tid. `mapped` runs once a program may store into a device by mmap."""
        self.model = model
        self._thread = thread
        self._mapped = mapped
        self._handles = itertools.count(1)
        self._open: dict[int, _Open] = {}
        self._by_identity: dict[Identity, list[_Open]] = {}

    def find(self, identity: Identity) -> ModelFile | None:
        """Returns the file that was opened first: one lookup may serve several opens (through /proc/self/fd)."""
        opened = self._by_identity.get(identity)
        return opened[0].file if opened else None

    def add(self, file: ModelFile, identity: Identity, *, can_be_mapped: bool) -> int:
        """Adds a file and returns its handle. Takes over the reference that all processes share."""
        opened = _Open(file, identity, can_be_mapped)
        handle = next(self._handles)
        self._open[handle] = opened
        self._by_identity.setdefault(identity, []).append(opened)
        return handle

    def _get(self, handle: int) -> _Open:
        """Raises Errno(EBADF)."""
        try:
            return self._open[handle]
        except KeyError:
            raise Errno(errno.EBADF) from None

    def release(self, handle: int) -> None:
        opened = self._get(handle)
        del self._open[handle]
        others = self._by_identity[opened.identity]
        others.remove(opened)
        if not others:
            del self._by_identity[opened.identity]
        self.model.release(opened.file)

    def read(self, handle: int, offset: int, length: int) -> bytes:
        return self.model.pread(self._get(handle).file, offset, length)

    def write(self, handle: int, offset: int, data: bytes) -> int:
        return self.model.pwrite(self._get(handle).file, offset, data)

    def poll(self, handle: int) -> int:
        return self._get(handle).file.events

    def ioctl(self, handle: int, tid: int, command: int, argument: int) -> int | Blocked:
        opened = self._get(handle)
        thread = self._thread(tid)

        def turn() -> int | Blocked | None:
            try:
                return self.model.ioctl(opened.file, command, argument, thread)
            except OSError as error:  # /proc shows nothing of a thread that was killed meanwhile
                raise refusal(error, errno.ESRCH) from None
            except Unfinished:
                return None

        def later() -> int | None:
            result = turn()
            return result if isinstance(result, int) else None

        result = turn()
        if result is None:
            return Waiting("the caller's memory is read or written", later, works=True)
        if opened.can_be_mapped and not opened.mapped:
            self._note_mapping(opened)
        return result

    def _note_mapping(self, opened: _Open) -> None:
        """Treats a file that can be mapped as mapped: the kernel maps its backing file without a request."""
        try:
            self.model.mmap(opened.file, 0, PAGE)
        except Errno:
            return
        opened.mapped = True
        self._mapped()


class DeviceFiles:
    """`FileSystem` of a mount whose files are devices. `number` is its st_dev."""

    def __init__(self, files: OpenFiles, number: int, wait: Callable[[Blocked, Answer], None]) -> None:
        self.files = files
        self.wait = wait
        self.number = number
        self.fuse: int | None = None
        """The fd of /dev/fuse where files can be mapped. Borrowed."""
        self._backing: dict[int, int] = {}

    def look(self, path: str) -> Node:
        """Looks a path up. The model's files have the names that they have below /dev/vfio."""
        nodes = self.files.model.nodes()
        full = _full(path)
        if full in nodes:
            return Node(stat.S_IFREG | _MODES.get(full, 0o600), unique=True, size=_SIZE)
        if not path or any(node.startswith(full + "/") for node in nodes):
            return Node(stat.S_IFDIR | 0o755)
        raise Errno(errno.ENOENT)

    def names(self, path: str) -> Sequence[str]:
        inside = _full(path) + "/"
        found = (node[len(inside) :].partition("/")[0] for node in self.files.model.nodes() if node.startswith(inside))
        return tuple(dict.fromkeys(found))

    def target(self, path: str) -> str:
        raise Errno(errno.EINVAL)

    def open(self, path: str, inode: int, tid: int) -> Opened:
        return self._opened(self.files.model.open(_full(path)), inode)

    def _opened(self, file: ModelFile, inode: int) -> Opened:
        backing = self._back(file)
        handle = self.files.add(file, (self.number, inode), can_be_mapped=bool(backing))
        return Opened(handle, backing)

    def _back(self, file: ModelFile) -> int:
        """Returns a backing id of the memfd with the device's BARs; 0 if it has no such memfd."""
        if self.fuse is None or not isinstance(file, VfioDeviceFile):
            return 0
        bar = file.device.function.device.bars[0]
        assert isinstance(bar, Bar), "memory comes from `DeviceMemory`"
        memory = bar.bars.file.fileno()
        if memory not in self._backing:
            request = bytearray(fuse.BACKING_MAP.pack(memory, 0, 0))
            try:
                self._backing[memory] = fcntl.ioctl(self.fuse, fuse.FUSE_DEV_IOC_BACKING_OPEN, request)
            except OSError:  # out of memory: this file cannot be mapped, everything else works
                return 0
        return self._backing[memory]

    def read(self, handle: int, offset: int, length: int, tid: int) -> bytes:
        return self.files.read(handle, offset, length)

    def write(self, handle: int, offset: int, data: bytes, tid: int) -> int | Blocked:
        return self.files.write(handle, offset, data)

    def ioctl(self, handle: int, tid: int, command: int, argument: int) -> int | Blocked:
        return self.files.ioctl(handle, tid, command, argument)

    def poll(self, handle: int) -> int:
        return self.files.poll(handle)

    def release(self, handle: int) -> None:
        self.files.release(handle)


class HandedOut(DeviceFiles):
    """The hidden mount. Every open in it opens `next_file`."""

    next_file: ModelFile | None = None

    def look(self, path: str) -> Node:
        return Node(stat.S_IFREG | 0o600, unique=True, size=_SIZE) if path else Node(stat.S_IFDIR | 0o700)

    def open(self, path: str, inode: int, tid: int) -> Opened:
        if self.next_file is None:  # by a program, through /proc/self/fd
            raise Errno(errno.ENXIO)
        return self._opened(self.next_file.reference(), inode)


def _full(path: str) -> str:
    return iommufd.DEVICE if path == IOMMU_NAME else f"{vfio.GROUPS}/{path}" if path else vfio.GROUPS
