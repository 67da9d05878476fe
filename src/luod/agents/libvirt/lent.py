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
from luod.agents.libvirt import paths
from luod.frozen import frozen
from luod.linux import Fd

_HOLDER: Final = ("/bin/sleep", "infinity")


@frozen
class User:
    """Whom libvirt runs a QEMU as, by numbers."""

    uid: int
    gid: int


@contextlib.asynccontextmanager
async def lent(ram: Fd, user: User, name: str) -> AsyncIterator[str]:
    """Lets `user` open the caller's memfd `ram` in the block, and yields the path. Raises OSError."""
    paths.make_folder()
    # QEMU's user may do anything with the holder, so it has nothing of the agent's but the memory.
    holder = await asyncio.create_subprocess_exec(
        *_HOLDER,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
        cwd="/",
        env={},
        start_new_session=True,
        pass_fds=(ram.fileno(),),
        user=user.uid,
        group=user.gid,
        extra_groups=[],
        preexec_fn=partial(end_with, os.getpid()),
    )
    try:
        link = paths.ram(name)
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
