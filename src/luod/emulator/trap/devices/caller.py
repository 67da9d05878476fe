"""`DeviceCaller` over a stopped thread: `Thread`, and the other facts about a caller that calls on device files need.

Fds of device files are recognised by their inode numbers: no two open files share one (`trap.fuse.tree`). Each call has
its own object, as with `Thread`.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import re
import struct
from collections.abc import Callable
from typing import Final, Protocol

from luod import linux
from luod.emulator.model.files import SessionFile
from luod.emulator.model.ports import Errno, HostFile, Kind
from luod.emulator.model.vfio.files import ModelFile
from luod.emulator.model.vfio.ports import Locker
from luod.emulator.trap.devices.memory import DeviceMemory, EventFd, ProcessMemory
from luod.emulator.trap.process.caller import Surroundings, Thread
from luod.emulator.trap.process.memory_files import Stand, close_elsewhere
from luod.emulator.trap.process.placeholder import Identity
from luod.emulator.trap.seccomp.notify import Notification

_CAP_IPC_LOCK: Final = 14
_NO_LIMIT: Final = 1 << 64
_VERSION_3: Final = 0x20080522
_CAPABILITY_HEADER: Final = struct.Struct("=Ii")
_CAPABILITY_SETS: Final = 24
"""Bytes: the low halves of effective, permitted and inheritable, then the high halves."""
_STATUS: Final = re.compile(rb"^(Tgid|Uid|VmLck):\s*(\w+)", re.MULTILINE)
_EVENTFD: Final = "anon_inode:[eventfd]"


class FilesOfDevices(Protocol):
    """The device files that processes of one boot have open (`devices.py`)."""

    @property
    def memory(self) -> DeviceMemory: ...

    def is_ours(self, identity: Identity) -> bool:
        """Returns whether the file is on one of the supervisor's mounts. A query to its file system would deadlock."""
        ...

    def file_of(self, identity: Identity) -> ModelFile | None:
        """Returns the model's file behind `identity`. Its reference count does not change."""
        ...

    def install(self, file: ModelFile, add: Callable[[int], int]) -> int:
        """Returns the number of a new fd of `file` in the caller.

        `add` puts a duplicate of an fd into the caller and returns its number. Raises Errno.
        """
        ...


class DeviceThread(Thread):
    """`Caller` in a machine that has devices."""

    def __init__(
        self, surroundings: Surroundings, devices: FilesOfDevices, tid: int, notification: Notification | None = None
    ) -> None:
        super().__init__(surroundings, tid, notification)
        self._devices = devices

    def identity(self, fd: int) -> Identity | None:
        found = super().identity(fd)
        if found is None or found[1] or not self._devices.is_ours(found):
            return found
        # The file system is of another user namespace. Its inode numbers are shown here nevertheless.
        try:
            with open(f"/proc/{self.tid}/fdinfo/{fd}", encoding="ascii") as lines:
                return (found[0], next(int(line.split()[1]) for line in lines if line.startswith("ino:")))
        except OSError:
            return None

    def _serves(self, identity: Identity) -> bool:
        return self._devices.is_ours(identity) or super()._serves(identity)

    def _file(self, fd: int, identity: Identity) -> HostFile:
        if not self._devices.is_ours(identity):
            return super()._file(fd, identity)
        if self.only_path(fd):
            raise Errno(errno.EBADF)
        file = self._devices.file_of(identity)
        return Stand(Kind.OTHER, identity) if file is None else file.reference()

    def install(self, file: SessionFile | HostFile, cloexec: bool) -> int:
        if isinstance(file, ModelFile):
            return self._devices.install(file, lambda fd: self._add_fd(fd, cloexec=cloexec))
        return super().install(file, cloexec)

    def eventfd(self, fd: int) -> EventFd:
        taken = self.take(fd)
        if os.readlink(f"/proc/self/fd/{taken.fileno()}") != _EVENTFD:
            close_elsewhere(taken)
            raise Errno(errno.EINVAL)
        return EventFd(taken)

    def memory(self, address: int, length: int) -> ProcessMemory:
        pid = int(self._status[b"Tgid"])
        return self._devices.memory.of_process(pid, address, length, self._devices.is_ours)

    def locker(self, *, exempt: bool = True) -> Locker | None:
        if exempt and self._may_lock_all():
            return None
        status = self._status
        own = int(status.get(b"VmLck", 0)) * 1024
        return Locker(int(status[b"Uid"]), int(status[b"Tgid"]), _locked_limit(self.tid), own)

    def _may_lock_all(self) -> bool:
        # Not by `capable`: capget(2) takes a tenth of the time of a read of /proc, and this runs in each map.
        sets = ctypes.create_string_buffer(_CAPABILITY_SETS)
        linux.syscall("capget", ctypes.create_string_buffer(_CAPABILITY_HEADER.pack(_VERSION_3, self.tid)), sets)
        namespace = os.stat(f"/proc/{self.tid}/ns/user").st_ino
        has = sets.raw[_CAP_IPC_LOCK // 8] >> _CAP_IPC_LOCK % 8 & 1
        return bool(has) and namespace == self._around.user_namespace

    @functools.cached_property
    def _status(self) -> dict[bytes, bytes]:
        """Returns some fields of the thread's /proc status, of which one read serves a whole call."""
        with open(f"/proc/{self.tid}/status", "rb", buffering=0) as file:
            return dict(_STATUS.findall(file.read()))


def _locked_limit(tid: int) -> int:
    """Returns the soft RLIMIT_MEMLOCK of a thread in bytes. Raises OSError."""
    with open(f"/proc/{tid}/limits", encoding="ascii") as lines:
        word = next(line.split()[3] for line in lines if line.startswith("Max locked memory"))
    return _NO_LIMIT if word == "unlimited" else int(word)
