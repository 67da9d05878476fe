"""Restores all guests that the last kernel left, each by a launcher of its own: a failure of one concerns no other."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Sequence

from luod.agents.guests import ownership, pairing
from luod.aio import AsyncClient
from luod.errors import ManifestError, NoManifest
from luod.session_name import SessionName


async def waiting(client: AsyncClient, agent: str) -> tuple[str, ...]:
    """Returns the names of this user's workloads from the last kernel that may be guests of `agent`.

    Nothing is retrieved: this process would be the one that has it, for as long as it lives. A guest has two sessions,
    NAME and NAME#GENERATION. What a manifest says is known of the sessions that luod has; of those that wait in the
    kernel it is known to the agent, which retrieves NAME.
    """
    own = ownership.uids()
    incoming = [found for found in await client.sessions() if found.direction == "incoming" and found.owner in own]
    names = [SessionName.parse(found.name) for found in incoming]
    frozen = {name.base for name in names if name.generation is not None}
    candidates = [name.base for name in names if name.generation is None and name.base in frozen]
    return tuple([name for name in dict.fromkeys(candidates) if await _may_be_a_guest(client, name, agent)])


async def _may_be_a_guest(client: AsyncClient, name: str, agent: str) -> bool:
    try:
        return pairing.is_of(agent, await client.about(name, direction="incoming"))
    except (NoManifest, ManifestError):
        return True


async def run(commands: Sequence[Sequence[str]]) -> int:
    """Runs the commands side by side until all have ended. Returns 0 if each returned 0, else the first other status.

    SIGTERM and SIGINT are passed on to each.
    """
    processes = [await asyncio.create_subprocess_exec(*command) for command in commands]

    def end() -> None:
        for process in processes:
            if process.returncode is None:
                process.send_signal(signal.SIGTERM)

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end)
    codes = await asyncio.gather(*(process.wait() for process in processes))
    return next((128 - code if code < 0 else code for code in codes if code), 0)
