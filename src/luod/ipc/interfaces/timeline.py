"""What `io.luod.Admin.Timeline` answers, as types. Part of `luod.ipc.interfaces.admin`; made by
`luod.daemon.updates.update`.

Times are seconds since the update was asked for, through the jump; null: it has not come to that.
"""

from dataclasses import dataclass
from typing import Literal, TypedDict


@dataclass(frozen=True)
class SessionTimes:
    """One session, with what was made of it while frozen. standing: its participant's; unasked: it has none; torn: it
    came over without its participant's ready. prepared, frozen: it was ready. resumed: its guest was about to
    run. gone: released, or lost. blackout: from freezing to resumed, or to the end of a cancelled update.
    """

    name: str
    owner: int
    bytes: int
    standing: Literal["awaited", "granted", "ready", "vetoed", "lost", "unasked", "torn"]
    reason: str | None
    prepared: float | None
    frozen: float | None
    retrieved: float | None
    resumed: float | None
    gone: float | None
    outcome: str | None
    blackout: float | None


@dataclass(frozen=True)
class UpdateTimes:
    """One update. asked: when, in seconds since 1970. clock: what told the time over the jump, which may be wrong by
    error: the processor's counter, or where that cannot be trusted the wall clock. blackout: the longest.
    """

    update: str
    generation: int
    skip_unready: bool
    asked: float
    state: Literal["preparing", "freezing", "jumping", "restoring", "done", "cancelled"]
    reason: str | None
    freezing: float | None
    jumping: float | None
    arrived: float | None
    ended: float | None
    now: float | None
    clock: Literal["tsc", "wall"] | None
    error: float | None
    blackout: float | None
    sessions: list[SessionTimes]


class TimelineReply(TypedDict):
    """`timeline` is null where there was no update yet."""

    timeline: UpdateTimes | None
