"""The part of serve that a Retrieve needs, as one value for the rooms that are built after it (`luod.daemon.rooms`)."""

from __future__ import annotations

from luod.frozen import frozen
from luod.static import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from luod.daemon.log import Log
    from luod.daemon.policy.current import Policy
    from luod.daemon.run_state import Run
    from luod.daemon.sessions.service import SessionService
    from luod.daemon.store.recovery import Holdings
    from luod.daemon.timeline.earlier import Earlier
    from luod.daemon.updates.participants import Participants
    from luod.ipc.server.foreign_files import ForeignFiles


@frozen
class Core:
    """`directory` is the state directory. `stuck_seconds`: how long reboot(2) may be blocked. `failed` ends serve after
    a defect.
    """

    holdings: Holdings
    policy: Policy
    run: Run
    sessions: SessionService
    participants: Participants
    foreign: ForeignFiles
    earlier: Earlier
    directory: str
    stuck_seconds: float
    failed: Callable[[BaseException], None]
    log: Log
