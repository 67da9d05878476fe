"""The guest's RAM, where a QEMU that libvirt starts can open it.

libvirt passes no fd for memory, so QEMU opens it by a path: a symbolic link to /proc/PID/fd/N. The kernel lets QEMU do
that only if the process PID has QEMU's user and group, and no more rights. So a child with these has the memfd, and
nothing else, for as long as QEMU starts; afterwards QEMU has the memory open itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from functools import partial
from typing import Final

from luod.agents.guests.children import end_with
from luod.frozen import frozen
from luod.linux import Fd

FOLDER: Final = "/run/luod/libvirt"
_HOLDER: Final = ("sleep", "infinity")


@frozen
class User:
    """Whom libvirt runs a QEMU as, by numbers."""

    uid: int
    gid: int


def path(name: str) -> str:
    """Returns the path of the RAM of the domain `name`. It is the same at each start."""
    return f"{FOLDER}/{name.replace('/', '%2F')}.ram"


@contextlib.asynccontextmanager
async def lent(ram: Fd, user: User, name: str) -> AsyncIterator[str]:
    """Lets `user` open the caller's memfd `ram` in the block, and yields the path. Raises OSError."""
    os.makedirs(FOLDER, mode=0o755, exist_ok=True)
    holder = await asyncio.create_subprocess_exec(
        *_HOLDER,
        stdin=asyncio.subprocess.DEVNULL,
        pass_fds=(ram.fileno(),),
        user=user.uid,
        group=user.gid,
        extra_groups=[],
        preexec_fn=partial(end_with, os.getpid()),
    )
    try:
        link = path(name)
        new = f"{link}.{holder.pid}"
        os.symlink(f"/proc/{holder.pid}/fd/{ram.fileno()}", new)
        os.replace(new, link)
        try:
            yield link
        finally:
            os.unlink(link)
    finally:
        with contextlib.suppress(ProcessLookupError):
            holder.kill()
        await holder.wait()
