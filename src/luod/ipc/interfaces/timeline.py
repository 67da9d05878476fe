"""What `io.luod.Admin.Timeline` answers, as types. Part of `luod.ipc.interfaces.admin`; made by
`luod.daemon.updates.update`.

Members that end in `At` are seconds since the update was asked for, through the jump; null: it has not come to that.
"""

from dataclasses import dataclass
from typing import Literal, TypedDict


@dataclass(frozen=True)
class SessionTimes:
    """One session, with what was made of it while frozen. standing: its participant's; unasked: it has none; torn: it
    came over without its participant's ready. preparedAt, frozenAt: it was ready. resumedAt: its guest was about to
    run. goneAt: released, or lost. blackoutSeconds: from freezing to resumed, or to the end of a cancelled update.
    """

    name: str
    owner: int
    bytes: int
    standing: Literal["awaited", "granted", "ready", "vetoed", "lost", "unasked", "torn"]
    reason: str | None
    preparedAt: float | None
    frozenAt: float | None
    retrievedAt: float | None
    resumedAt: float | None
    goneAt: float | None
    outcome: str | None
    blackoutSeconds: float | None


@dataclass(frozen=True)
class UpdateTimes:
    """One update. asked: when, in seconds since 1970. clock: what told the time over the jump, which may be wrong by
    errorSeconds: the processor's counter, or where that cannot be trusted the wall clock. blackoutSeconds: the longest.
    """

    update: str
    generation: int
    forced: bool
    asked: float
    state: Literal["preparing", "freezing", "jumping", "restoring", "done", "cancelled"]
    reason: str | None
    freezingAt: float | None
    jumpingAt: float | None
    arrivedAt: float | None
    endedAt: float | None
    nowAt: float | None
    clock: Literal["tsc", "wall"] | None
    errorSeconds: float | None
    blackoutSeconds: float | None
    sessions: list[SessionTimes]


class TimelineReply(TypedDict):
    """`timeline` is null where there was no update yet."""

    timeline: UpdateTimes | None
