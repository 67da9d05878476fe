"""Checks which user and which process a guest's sessions belong to.

luod shows root the sessions of all users, and lets it restore and release them. A session says which program restores
it, so the agent of root uses only root's own.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Sequence
from typing import Final

from luod.agents.guests import pairing
from luod.aio import AsyncClient
from luod.errors import NoSuchSession, QemuRefusal
from luod.ipc.types.sessions import Description

LOOK_SECONDS: Final = 20.0
_LOOK_PAUSE: Final = 0.2
"""How long the agent of another kind of guest may take to see that a session is not its own, and to end."""


async def described(client: AsyncClient, name: str) -> tuple[Description, ...]:
    """Returns luod's sessions of the guest `name`; () without one. Raises QemuRefusal: one is of another user."""
    try:
        found = await client.describe(name)
    except NoSuchSession:
        return ()
    own = uids()
    if others := sorted({each.owner for each in found} - own):
        raise QemuRefusal(
            f"the session {name} is of the user with uid {others[0]}, who also chose the program of its guest",
            hint="run this as that user, or use another name",
        )
    return found


async def waits(client: AsyncClient, name: str, *, within: float = 0.0) -> bool:
    """Returns whether the last kernel left a session of the guest that is not finished.

    Raises QemuRefusal: a session of this name is of another user, or a live process has the guest, also after `within`
    seconds.
    """
    deadline = time.monotonic() + within
    while True:
        found = await described(client, name)
        try:
            require_unclaimed(name, found)
            break
        except QemuRefusal:
            if time.monotonic() >= deadline:
                raise
            await asyncio.sleep(_LOOK_PAUSE)
    return any(each.direction == "incoming" for each in found)


async def is_of(client: AsyncClient, name: str, agent: str) -> bool:
    """Returns whether `agent` made the session. It retrieves this one only, and luod keeps it."""
    with await client.retrieve(name) as session:
        return pairing.is_of(agent, session.about)


def require_unclaimed(name: str, found: Sequence[Description]) -> None:
    """Raises QemuRefusal: a live process has the guest of these sessions from the last kernel.

    luod awaits the end of the process by a pidfd, so a later process of the same number is not taken for it. Two
    programs would run two guests on one memory and one disk (docs/hazards.md, H12).
    """
    claimants = {each.process for each in found if each.direction == "incoming"} - {None, os.getpid()}
    for pid in claimants:
        raise QemuRefusal(
            f"the guest {name} is with process {pid}, which retrieved it from luod and lives",
            hint=f"continue the guest there, or end that process first: see `ps {pid}`",
        )


async def require_not_carried_over(client: AsyncClient, name: str) -> None:
    """Raises QemuRefusal: the frozen state of the guest was carried over, and waits for the next kernel.

    A launcher that is present answers for its sessions.
    """
    found = await described(client, name)
    if any(each.direction == "outgoing" and each.generation is not None and each.participant is None for each in found):
        raise QemuRefusal(
            f"the guest {name} was carried over, and can be restored in the next kernel",
            hint=f"update the kernel, or give the guest up with `luoctl release {name}`",
        )


async def release_earlier(client: AsyncClient, name: str) -> None:
    """Releases what an earlier launcher left. Raises Refused: that one lives and answers for it, or as `described`."""
    await described(client, name)
    with contextlib.suppress(NoSuchSession):
        await client.discard(name)


def uids() -> frozenset[int]:
    """Returns the uids that can stand for this process's user in luod's answers.

    luod may be outside of this process's user namespace, where the user has another uid.
    """
    uid = os.geteuid()
    with open("/proc/self/uid_map", encoding="ascii") as file:
        ranges = [tuple(map(int, line.split())) for line in file]
    return frozenset({uid, *(outside + uid - inside for inside, outside, count in ranges if 0 <= uid - inside < count)})
