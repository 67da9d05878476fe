"""One agent for a domain at a time: two would start it twice, or one would end what the other restores."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator

from luod.agents.libvirt import paths
from luod.errors import QemuRefusal
from luod.linux import Fd


@contextlib.contextmanager
def held(name: str) -> Iterator[None]:
    """Keeps other agents from the domain `name` in the block, for as long as this process lives.

    Raises QemuRefusal: another agent has it. Raises OSError: there is no place for the lock.
    """
    paths.make_folder()
    # It is never removed: another process may have the file open, and would lock one that nobody finds.
    with Fd(os.open(paths.lock(name), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)) as file:
        try:
            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = os.pread(file.fileno(), 20, 0).decode(errors="replace") or "unknown"
            raise QemuRefusal(
                f"the domain {name} is with process {pid}, another `luoctl libvirt`",
                hint=f"see `ps {pid}`; when that process is ended by SIGTERM, a running domain runs on",
            ) from None
        os.ftruncate(file.fileno(), 0)
        os.pwrite(file.fileno(), str(os.getpid()).encode(), 0)
        yield
