"""Freezes the sessions of an update right before reboot(2), in parallel, on a kernel that declares FREEZE.

On every released kernel reboot(2) does that work, one session after the other, while guests are paused. There is no
way back from FREEZE but to close the session, so it is the last step before reboot(2).
"""

from __future__ import annotations

import asyncio
import errno
import os

from luod.errors import KernelRefused, SessionFrozen
from luod.liveupdate import posted
from luod.static import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from luod.linux import Fd


async def freeze(sessions: Mapping[str, Fd]) -> None:
    """Freezes `sessions`, by name; does nothing on a kernel that does not declare FREEZE.

    Raises KernelRefused, with the session's name: it cannot be frozen. Others stay frozen then.
    """
    if not posted.available() or not sessions:
        return
    names = list(sessions)
    workers = min(len(names), os.cpu_count() or 1)
    shares = [[(name, sessions[name]) for name in names[first::workers]] for first in range(workers)]
    for refusal in await asyncio.gather(*(asyncio.to_thread(_freeze, share) for share in shares)):
        if refusal is not None:
            raise refusal


def _freeze(sessions: Sequence[tuple[str, Fd]]) -> KernelRefused | None:
    """Freezes sessions one after the other, and returns the first refusal."""
    for name, fd in sessions:
        try:
            posted.freeze(fd.fileno())
        except SessionFrozen:  # by its owner
            continue
        except KernelRefused as error:
            code = error.errno or 0
            why = f"session {name} cannot be frozen ({errno.errorcode.get(code, code)}); create it again"
            return KernelRefused(code, error.call, why)
    return None
