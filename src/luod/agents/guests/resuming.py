"""The step without a second try: a restored guest runs, and changes its memory (docs/hazards.md, H12)."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from typing import Final

from luod.agents.guests.carried import Report, said
from luod.agents.guests.monitor import Monitor
from luod.aio import AsyncRestored

_ANNOUNCE: Final = {"initial": 50, "max": 550, "rounds": 5, "step": 100}
"""In milliseconds: the times of the packets by which a guest tells the switches where it is."""


async def resume(
    restored: AsyncRestored, monitor: Monitor, report: Report, proceed: Callable[[], Awaitable[object]] | None
) -> None:
    """Continues the loaded guest by `proceed`, and finishes its sessions. None: it runs, or its owner had paused it."""
    await restored.resume()
    if proceed is not None:
        await proceed()
    try:
        await restored.finish()
    except Exception as error:  # noqa: BLE001 - no error of the agent's ends its guest
        # The guest runs. luod discards the session after its restore deadline, or for the operator.
        report(f"its session could not be finished, and is left to `luoctl discard`: {said(error)}")
    with contextlib.suppress(Exception):  # the guest runs, and nothing may look like a failed restore
        await monitor.execute("announce-self", _ANNOUNCE)
