"""Finds the sessions that ended with the supervisor that closed them. The kernel is asked, which cannot list them.

Standard library only.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from luod.daemon.supervisor import protocol
from luod.errors import KernelRefused, NoSuchSession, SessionExists, SessionTaken
from luod.liveupdate.device import LiveUpdate
from luod.static import Final

_LOOKS: Final = 4
_LOOK_SECONDS: Final = 0.05
_PATIENCE_SECONDS: Final = 1.0


def ended_sessions(sessions: Sequence[str]) -> tuple[list[str], KernelRefused | None]:
    """Returns the sessions, by their fds' names, that no process has open, and the error that ended this early."""
    left = list(sessions)
    try:
        for look in range(_LOOKS if left else 0):
            if look:
                # The last fd of a process that is being killed is closed a moment after its death.
                time.sleep(_LOOK_SECONDS)
            with LiveUpdate(patience=_PATIENCE_SECONDS) as device:
                for name in list(left):
                    if _is_gone(device, name):
                        left.remove(name)
            if not left:
                break
    except KernelRefused as error:
        return [name for name in sessions if name not in left], error
    return [name for name in sessions if name not in left], None


def _is_gone(device: LiveUpdate, name: str) -> bool:
    """Returns whether the session is gone. The kernel refuses its name as long as it exists (docs/hazards.md, H9)."""
    direction, _, session = name.partition(".")
    try:
        (device.create if direction + "." == protocol.OUTGOING else device.retrieve)(session).close()
    except (SessionExists, SessionTaken):
        return False
    except NoSuchSession:
        return True
    return True
