"""Checks the state directory. Each problem has a path, a sentence, and a remedy.

The check changes nothing: it tests for space with a file without a name (O_TMPFILE). `luod.daemon.preflight.storage`
makes findings of the problems.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat

from luod.ipc.types.admin import Problem
from luod.linux import Fd
from luod.static import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

    from luod.daemon.store.journal_file import Journal

SPACE: Final = 64 * 1024
"""Bytes that an update writes beside the registry, which has reserved space: the timeline and the policy's copy."""

_FILES: Final = ("registry", "registry.reserve", "lock", "timeline", "policy")
_FULL: Final = (errno.ENOSPC, errno.EDQUOT)


def problems(file: Journal, file_error: str = "") -> list[Problem]:
    """Returns the problems of the directory of the registry's `file`. `file_error` is why the file is behind.

    While writes to the directory wait, it is not looked at: its disk may hang.
    """
    if file.hold.holds:
        remedy = "find out what keeps the disk busy; luod goes on by itself when the disk answers"
        return [Problem(file.directory, file.hold.why, remedy)] if file.hold.why else []
    found = list(_directory(file.directory)) or list(_contents(file))
    if not found and file_error:
        what = f"the registry's file could not be written: {file_error}"
        found.append(Problem(file.path, what, "fix the cause; luod writes the file again with the next change"))
    return found


def _directory(path: str) -> Iterator[Problem]:
    """Yields the problems of the directory itself. Its contents need no check after one."""
    try:
        there = os.stat(path)
    except OSError as error:
        if isinstance(error, FileNotFoundError):
            yield Problem(path, "it does not exist", f"create it and restart luod: install -d -m 0700 {path}")
        else:
            yield Problem(path, f"it cannot be read: {error.strerror or error}", "repair the file system")
        return
    if not stat.S_ISDIR(there.st_mode):
        yield Problem(path, "it is not a directory", "move it away and restart luod")
        return
    yield from _owned(path, there, "0700")
    if problem := _space(path, SPACE):
        yield problem


def _owned(path: str, there: os.stat_result, mode: str) -> Iterator[Problem]:
    if there.st_uid != os.geteuid():
        yield Problem(path, f"it belongs to uid {there.st_uid}, not to root", f"chown {os.geteuid()} {path}")
    if there.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        what = f"others can write to it: its mode is {stat.S_IMODE(there.st_mode):04o}"
        yield Problem(path, what, f"chmod {mode} {path}")


def _space(path: str, size: int) -> Problem | None:
    """Returns the problem with writing `size` bytes to a new file in the directory."""
    try:
        with Fd(os.open(path, os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o600)) as probe:
            os.posix_fallocate(probe.fileno(), 0, size)
    except OSError as error:
        if error.errno in (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL):
            return _free(path, size)
        return _refused(path, error, size)
    return None


def _free(path: str, size: int) -> Problem | None:
    """Returns the problem as `_space`, on a file system without files that have no name."""
    try:
        found = os.statvfs(path)
        writable = os.access(path, os.W_OK)
    except OSError as error:
        return _refused(path, error, size)
    if found.f_flag & os.ST_RDONLY or not writable:
        return _refused(path, OSError(errno.EROFS, os.strerror(errno.EROFS)), size)
    if found.f_bavail * found.f_frsize < size:
        return _refused(path, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), size)
    return None


def _refused(path: str, error: OSError, size: int) -> Problem:
    reason = error.strerror or str(error)
    if error.errno in _FULL:
        what = "its file system is full" if error.errno == errno.ENOSPC else "its quota is used up"
        remedy = (
            f"free {-(-size // 1024)} KiB or more, and inodes, on the file system of {path} (df {path}, df -i {path})"
        )
        return Problem(path, f"{what}: {reason}", remedy)
    if error.errno == errno.EROFS:
        remedy = f"mount it read-write: mount -o remount,rw $(findmnt -no TARGET -T {path})"
        return Problem(path, f"it is read-only: {reason}", remedy)
    remedy = f"let root write to it: lsattr -d {path}, namei -l {path}"
    return Problem(path, f"luod cannot write to it: {reason}", remedy)


def _contents(file: Journal) -> Iterator[Problem]:
    """Yields the problems of the files in the directory, and of the reserved space."""
    for name in _FILES:
        path = os.path.join(file.directory, name)
        with contextlib.suppress(FileNotFoundError):
            there = os.lstat(path)
            if not stat.S_ISREG(there.st_mode):
                yield Problem(path, "it is not a regular file", "move it away and restart luod")
            else:
                yield from _owned(path, there, "0600")
    if file.begun and not file.open:
        what = "it is not the directory to which luod wrote: it was replaced, or another file system is mounted over it"
        yield Problem(file.directory, what, "mount the one of before; or luod writes to this one with the next change")
    elif file.reserve_error is not None:
        error = file.reserve_error
        yield _refused(file.directory, error, file.reserve_wanted)
