"""Reads the files of a next kernel, and what the running one writes, and keeps what was read.

It takes seconds and is for a thread, one at a time. What a file says is kept by its fingerprint (device, inode, size,
times of change), so a file that did not change is read once.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field

from luod import image
from luod.daemon.preflight.facts import InitrdFile, KernelFile
from luod.daemon.preflight.running import IMAGE_MAX, Running, running
from luod.daemon.preflight.subject import Fingerprint, Subject, fingerprint
from luod.errors import ImageError
from luod.image import initrd
from luod.linux import Fd, map_large_allocations


@dataclass(frozen=True)
class Read:
    """What was read for one subject."""

    kernel: KernelFile
    initrd: InitrdFile | None
    running: Running


@dataclass
class Reader:
    """Keeps what was read last."""

    _running: Running | None = None
    _kernel: KernelFile | None = None
    _initrd: dict[tuple[Fingerprint, str], InitrdFile] = field(default_factory=dict)
    """At most one, by fingerprint and command line."""

    def read(self, subject: Subject) -> Read:
        # Images are unpacked here, and what that takes is not to stay luod's.
        map_large_allocations()
        disk = None if subject.initrd is None else self._disk(subject.initrd, subject.command_line)
        return Read(self._image(subject.kernel), disk, self._running_kernel())

    def _running_kernel(self) -> Running:
        """It does not change while it runs, except that debugfs may be mounted."""
        now = self._running or running()
        self._running = None if now.assumed or now.scratch is None else now
        return now

    def _image(self, fd: Fd) -> KernelFile:
        known = self._kernel
        try:
            found = fingerprint(fd)
            if known is not None and known.fingerprint == found:
                return known
            self._kernel = KernelFile(found, image.read(_content(fd)))
        except (ImageError, OSError) as error:
            return KernelFile(_fingerprint_or_none(fd), None, _unreadable(error, "load another one"))
        return self._kernel

    def _disk(self, fd: Fd, command_line: str) -> InitrdFile:
        size = 0
        try:
            found, size = fingerprint(fd), os.fstat(fd.fileno()).st_size
            known = self._initrd.get((found, command_line))
            if known is not None:
                return known
            disk = InitrdFile(found, size, initrd.read(_content(fd), command_line))
        except (ImageError, OSError) as error:
            reason = _unreadable(error, "give the file that the boot loader would load")
            return InitrdFile(_fingerprint_or_none(fd), size, None, reason)
        self._initrd = {(found, command_line): disk}
        return disk


def _fingerprint_or_none(fd: Fd) -> Fingerprint:
    try:
        return fingerprint(fd)
    except OSError:
        return ()


def _content(fd: Fd) -> bytes:
    """The whole file, wherever its position is. ImageError, OSError."""
    found = os.fstat(fd.fileno())
    if not stat.S_ISREG(found.st_mode):
        raise ImageError("this is not a regular file")
    if found.st_size > IMAGE_MAX:
        raise ImageError(f"the file has {found.st_size} bytes, more than any there is")
    # At once, as regular files can be: there is one copy of it.
    content = os.pread(fd.fileno(), found.st_size, 0)
    if len(content) != found.st_size:
        raise ImageError("the file changes while it is read")
    return content


def _unreadable(error: ImageError | OSError, remedy: str) -> tuple[str, str]:
    if isinstance(error, ImageError):
        return error.message, error.hint or remedy
    return error.strerror or str(error), remedy
