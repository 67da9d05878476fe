"""Reads the files of a next kernel and the formats of the running one, and keeps the results.

It takes up to seconds and is for a thread, one at a time. The results are kept by the files' fingerprints (device,
inode, size, times of change), those for an initial RAM disk also by the kernel and the command line. The unpacked files
are not kept.
"""

from __future__ import annotations

import os
import stat

from luod import image
from luod.daemon.preflight.facts import InitrdFile, KernelFile
from luod.daemon.preflight.running import IMAGE_MAX, Running, running
from luod.daemon.preflight.subject import Fingerprint, Subject, fingerprint
from luod.errors import ImageError, ImageUnreadable
from luod.frozen import frozen
from luod.image import command_line, initrd
from luod.linux import Fd, return_freed_memory


@frozen
class Read:
    """The results for one subject."""

    kernel: KernelFile
    initrd: InitrdFile | None
    running: Running


class Reader:
    """Keeps the last results."""

    def __init__(self, running: Running | None = None) -> None:
        self._running = running
        self._kernel: KernelFile | None = None
        self._initrd: tuple[tuple[object, ...], InitrdFile] | None = None

    def read(self, subject: Subject) -> Read:
        try:
            kernel = self._image(subject.kernel)
            disk = None if subject.initrd is None else self._disk(subject.initrd, subject.command_line, kernel)
            return Read(kernel, disk, self._running_kernel())
        finally:
            # Images were unpacked, and luod must not keep that memory.
            return_freed_memory()

    def _running_kernel(self) -> Running:
        """Returns the facts of the running kernel, which do not change, except that debugfs may be mounted."""
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

    def _disk(self, fd: Fd, given: str, kernel: KernelFile) -> InitrdFile:
        size = 0
        try:
            found, size = fingerprint(fd), os.fstat(fd.fileno()).st_size
            key = (found, given, kernel.fingerprint)
            if self._initrd is not None and self._initrd[0] == key:
                return self._initrd[1]
            disk = initrd.read(_content(fd))
        except ImageUnreadable as error:
            return InitrdFile(_fingerprint_or_none(fd), size, unreadable=(error.message, error.hint))
        except (ImageError, OSError) as error:
            remedy = "rebuild it (update-initramfs -u, dracut --force, mkinitcpio -P), or give the right file"
            return InitrdFile(_fingerprint_or_none(fd), size, unusable=_unreadable(error, remedy))
        modules = None
        if kernel.content is not None:
            contents = kernel.content.contents
            line = command_line.line(given, contents.options, disk.boot_config)
            modules = initrd.judge(disk, contents.release, line, contents.options)
        self._initrd = key, InitrdFile(found, size, modules, disk.boot_config)
        return self._initrd[1]


def _fingerprint_or_none(fd: Fd) -> Fingerprint:
    try:
        return fingerprint(fd)
    except OSError:
        return ()


def _content(fd: Fd) -> bytes:
    """Returns the whole file, independent of its position. Raises ImageError, OSError."""
    found = os.fstat(fd.fileno())
    if not stat.S_ISREG(found.st_mode):
        raise ImageError("this is not a regular file")
    if found.st_size > IMAGE_MAX:
        raise ImageError(f"the file has {found.st_size} bytes, which is too large for a kernel image")
    # In one read, as regular files allow: there is one copy of it.
    content = os.pread(fd.fileno(), found.st_size, 0)
    if len(content) != found.st_size:
        raise ImageError("the file was modified while it was read")
    return content


def _unreadable(error: ImageError | OSError, remedy: str) -> tuple[str, str]:
    if isinstance(error, ImageError):
        return error.message, remedy if error.hint == ImageError.hint else error.hint
    return error.strerror or str(error), remedy
