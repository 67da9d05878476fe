"""A temporary directory of this process, which another one removes later if this process is killed.

The file `.owner` in it is locked for as long as the process lives. A directory of the same kind whose lock is free
belongs to a process that is gone, and is removed when the next one is made. It is not for files that must be kept.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from luod.linux import Fd

_OWNER: Final = ".owner"


class Scratch:
    """Owns the directory. Remove it with `remove`, or leave it with `keep`."""

    def __init__(self, prefix: str, *, directory: str | os.PathLike[str] | None = None) -> None:
        """Makes a directory PREFIX… in `directory` (None: where tempfile makes its own), with mode 0700.

        Removes those of this prefix that killed processes of this uid left there. Raises OSError as mkdtemp does.
        """
        parent = tempfile.gettempdir() if directory is None else os.fspath(directory)
        for left in _abandoned(parent, prefix):
            shutil.rmtree(left, ignore_errors=True)
        self.path = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        """Where it is, on the host."""
        new = self.path / f"{_OWNER}.new"
        self._lock = Fd(os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        # Only now under its name: before, another process would find it free.
        os.rename(new, self.path / _OWNER)

    def remove(self) -> None:
        """Removes the directory and what is in it. Idempotent; without effect after `keep`."""
        if not self._lock.closed:
            shutil.rmtree(self.path, ignore_errors=True)
            self._lock.close()

    def keep(self) -> None:
        """Leaves the directory to the user for good. Idempotent; without effect after `remove`."""
        if not self._lock.closed:
            (self.path / _OWNER).unlink(missing_ok=True)
            self._lock.close()


def _abandoned(parent: str, prefix: str) -> Iterator[Path]:
    """Yields the directories whose owner was a process of this uid and is gone. Their locks are held meanwhile.

    The directory itself may belong to the uid of a machine, so it is the lock's owner that counts.
    """
    for path in Path(parent).glob(f"{prefix}*"):
        flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        with contextlib.suppress(OSError), Fd(os.open(path / _OWNER, flags)) as lock:
            found = os.fstat(lock.fileno())
            if stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid():
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                yield path
