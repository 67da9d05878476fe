"""Placeholders: objects in other processes that stand for a kernel file, and report their end.

The kernel file is a session or, without FUSE, the device. A placeholder is an empty, sealed memfd with an inotify
watch. The watch fires once, when the last fd of it is closed, whether it was forked, passed or in flight. It has fired
when that close() returns. The supervisor keeps no fd. The meaning of the file is not known here.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct
from typing import Final, Generic, TypeVar

from luod import linux
from luod.linux import Fd
from luod.uapi.memfd import F_ADD_SEALS, F_SEAL_GROW, F_SEAL_SEAL, F_SEAL_SHRINK, F_SEAL_WRITE

IN_DELETE_SELF: Final = 0x00000400
IN_IGNORED: Final = 0x00008000
IN_Q_OVERFLOW: Final = 0x00004000
_EVENT: Final = struct.Struct("=iIII")
_SEALS: Final = F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE

File = TypeVar("File")
Identity = tuple[int, int]
"""(st_dev, st_ino)"""


class Placeholders(Generic[File]):
    """Every placeholder of one boot. Owns the inotify fd, which the supervisor's epoll watches."""

    def __init__(self) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._add_watch = libc.inotify_add_watch
        fd = libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
        if fd < 0:
            code = ctypes.get_errno()
            raise OSError(code, f"inotify_init1: {os.strerror(code)}")
        self._inotify = Fd(fd)
        self._by_watch: dict[int, Identity] = {}
        self._files: dict[Identity, File] = {}

    def fileno(self) -> int:
        return self._inotify.fileno()

    def __len__(self) -> int:
        return len(self._files)

    def create(self, name: bytes, file: File) -> tuple[Fd, Identity]:
        """Creates a placeholder for `file`. The caller owns the fd, and passes it on and closes it. /proc shows `name`.

        The file counts as open from now on. Raises OSError: EMFILE, ENOSPC (no inotify watch is left to the user),
        ENOMEM.
        """
        fd = linux.memfd(os.fsdecode(name[:249]), 0, executable=False)
        try:
            os.fchmod(fd.fileno(), 0o600)
            fcntl.fcntl(fd.fileno(), F_ADD_SEALS, _SEALS)
            watch = self._add_watch(self._inotify.fileno(), b"/proc/self/fd/%d" % fd.fileno(), IN_DELETE_SELF)
            if watch < 0:
                code = ctypes.get_errno()
                raise OSError(code, f"inotify_add_watch: {os.strerror(code)}")
        except OSError:
            fd.close()
            raise
        status = os.fstat(fd.fileno())
        identity = (status.st_dev, status.st_ino)
        self._by_watch[watch] = identity
        self._files[identity] = file
        return fd, identity

    def find(self, identity: Identity) -> File | None:
        """Returns the file that a placeholder stands for; None for every other file."""
        return self._files.get(identity)

    def forget(self, identity: Identity) -> None:
        """Forgets a placeholder that was never given out."""
        self._files.pop(identity, None)

    def ended(self) -> list[File]:
        """Returns the files whose last reference has gone since the last call, in that order."""
        ended: list[File] = []
        while True:
            try:
                events = os.read(self._inotify.fileno(), 65536)
            except BlockingIOError:
                return ended
            except OSError as error:
                if error.errno == errno.EINTR:
                    continue
                raise
            offset = 0
            while offset < len(events):
                watch, mask, _, length = _EVENT.unpack_from(events, offset)
                offset += _EVENT.size + length
                if mask & IN_Q_OVERFLOW:
                    for gone in self._by_watch.keys() - self._live_watches():
                        self._end(gone, ended)
                elif mask & IN_IGNORED:
                    self._end(watch, ended)

    def _end(self, watch: int, ended: list[File]) -> None:
        identity = self._by_watch.pop(watch, None)
        if identity is not None and identity in self._files:
            ended.append(self._files.pop(identity))

    def _live_watches(self) -> set[int]:
        """Returns the watches that the kernel still has. The event queue overflowed (thousands were closed at once)."""
        live = set()
        with open(f"/proc/self/fdinfo/{self._inotify.fileno()}", encoding="ascii") as info:
            for line in info:
                if line.startswith("inotify wd:"):
                    live.add(int(line.split()[1].removeprefix("wd:"), 16))
        return live

    def close(self) -> None:
        """Ends all watches. Placeholders left in other processes have no meaning any more."""
        self._inotify.close()
        self._by_watch.clear()
        self._files.clear()
