"""One agent for a guest at a time: two would start it twice, or one would end what the other restores."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator

from luod.errors import QemuRefusal
from luod.linux import Fd


@contextlib.contextmanager
def held(path: str, guest: str, *, at_its_end: str) -> Iterator[None]:
    """Keeps other agents from `guest` in the block, for as long as this process lives, by a lock on the file `path`.

    For people, `guest` is a noun with its name, and `at_its_end` what the end of an agent does. Raises QemuRefusal:
    another process has the guest. Raises OSError: there is no place for the lock.
    """
    # It is never removed: another process may have the file open, and would lock one that nobody finds.
    with Fd(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)) as file:
        try:
            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = os.pread(file.fileno(), 20, 0).decode(errors="replace") or "unknown"
            raise QemuRefusal(
                f"{guest} is with process {pid}, which is its agent", hint=f"see `ps {pid}`; {at_its_end}"
            ) from None
        os.ftruncate(file.fileno(), 0)
        os.pwrite(file.fileno(), str(os.getpid()).encode(), 0)
        yield
