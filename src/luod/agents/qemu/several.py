"""Restores all guests that the last kernel left, each by a launcher of its own: a failure of one concerns no other."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Sequence

from luod.agents.qemu import ownership, record
from luod.aio import AsyncClient
from luod.errors import LuodError
from luod.session_name import SessionName


async def waiting(client: AsyncClient, report: Callable[[str], None]) -> tuple[str, ...]:
    """Returns the names of the guests of QEMU that the last kernel left to this user, and reports what is lost.

    A session's program is in its manifest, for which it is retrieved. luod keeps it; its own program retrieves it, too.
    """
    own = ownership.uids()
    incoming = [found.name for found in await client.sessions() if found.direction == "incoming" and found.owner in own]
    names = [name for name in dict.fromkeys(incoming) if SessionName.parse(name).generation is None]
    guests = []
    for name in names:
        try:
            restored = await client.restore(name)
            if restored is None:
                continue
            with restored:
                if record.is_ours(restored.running.about):
                    guests.append(name)
        except LuodError as error:
            report(f"{name}: {error}")
    return tuple(guests)


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
