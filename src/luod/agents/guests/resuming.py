"""Resuming a restored guest, which is tried once: the guest runs, and changes its memory (docs/hazards.md, H12).

From luod's record of it on, only the QEMU of this agent has the guest. So nothing but the end of that QEMU ends the
step: neither a luod that is gone, nor a QEMU that does not continue the guest.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Final

from luod.agents.guests.carried import Report, said, words
from luod.agents.guests.monitor import Monitor
from luod.aio import AsyncRestored
from luod.errors import (
    AlreadyResumed,
    Busy,
    DaemonUnreachable,
    LuodError,
    NoSuchSession,
    ProtocolError,
    QemuEnded,
    QemuRefusal,
    Torn,
)
from luod.ipc.client.participation import pause_after

_ANNOUNCE: Final = {"initial": 50, "max": 550, "rounds": 5, "step": 100}
"""In milliseconds: the times of the packets by which a guest tells the switches where it is."""
_FINAL: Final = (AlreadyResumed, Torn, NoSuchSession)
"""luod's answers about the guest itself."""


async def resume(
    restored: AsyncRestored,
    monitor: Monitor,
    report: Report,
    go_on: Callable[[], Awaitable[None]] | None,
    *,
    has_ended: Callable[[], bool],
) -> None:
    """Continues the loaded guest by `go_on`, and finishes its sessions. None: it runs, or its owner had paused it.

    `has_ended` says whether its QEMU has. Raises QemuRefusal: another process has resumed it. Raises other errors by
    which luod refuses: the guest must not run. Raises QemuEnded: QEMU has ended, and luod was not asked. Raises
    DaemonUnreachable: QEMU ended before luod answered.
    """
    require_alive(has_ended)
    try:
        await _recorded(restored, report, has_ended)
    except AlreadyResumed as error:
        # Not AlreadyResumed, for which a guest is started from the beginning: it was not resumed when this process
        # retrieved it, so the other one may live.
        raise QemuRefusal(
            f"another process has resumed the guest {restored.name} meanwhile",
            hint="continue the guest there; `luoctl show` may name the process",
        ) from error
    if go_on is not None:
        await go_on()
    try:
        await restored.finish()
    except Exception as error:  # noqa: BLE001 - no error of the agent's ends its guest
        # The guest runs. luod discards the session after its restore deadline, or for the operator.
        report(f"its session could not be finished, and is left to `luoctl discard`: {said(error)}")
    with contextlib.suppress(Exception):  # the guest runs, and nothing may look like a failed restore
        await monitor.execute("announce-self", _ANNOUNCE)


def require_alive(has_ended: Callable[[], bool]) -> None:
    """Raises QemuEnded if QEMU has ended, before luod is asked to record that the guest runs."""
    if has_ended():
        raise QemuEnded("QEMU ended before the guest ran", hint="its session is kept, and can be restored again")


async def _recorded(restored: AsyncRestored, report: Report, has_ended: Callable[[], bool]) -> None:
    """Returns when luod has recorded that the guest resumes. Raises as `resume`.

    Without an answer luod may have recorded it, and accepts it from no other process then. After that only an answer
    about this guest ends the wait: a luod that is full, or refuses all calls, says nothing about the lost one.
    """
    pause, reason, unclear = 0.0, "", False
    while True:
        try:
            await restored.resume()
            return
        except Exception as error:
            unclear |= isinstance(error, DaemonUnreachable | ProtocolError) or not isinstance(error, LuodError)
            again = isinstance(error, Busy) or (unclear and not isinstance(error, _FINAL))
            if not again or has_ended():
                raise
            if reason != words(error):
                reason = said(error)
                report(
                    f"waits for luod, which has to record that the guest goes on: {reason}. Start luod, and leave this "
                    "process alone: the guest may be accepted from no other"
                )
        pause = pause_after(pause)
        await asyncio.sleep(pause)
