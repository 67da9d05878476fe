"""The types of `io.luod.Sessions`."""

from luod.frozen import frozen
from luod.static import Literal

Direction = Literal["outgoing", "incoming"]
SessionState = Literal[
    "held", "dropped", "waiting", "retrieved", "torn", "resumed", "lost", "discarding", "stuck", "carrying_over"
]
Outcome = Literal["finished", "given_up"]


@frozen
class SessionInfo:
    """A session in luod's list. `owner` is the uid that created it.

    `direction` is "outgoing" or "incoming". `state` is documented at `List` of io.luod.Sessions; a newer luod may have
    further states.
    """

    name: str
    owner: int
    direction: Direction
    state: SessionState


@frozen
class Description(SessionInfo):
    """luod's facts about a session, without its contents.

    `bytes` are those of the files that its participant declared; 0 without one. `generation`, of NAME#GENERATION, is
    the number of the update in which it was written. `update` is the one that carried an incoming session, None for a
    kexec without luod. The seconds are until its participant was ready in each phase of that update. `process` is the
    process whose end luod awaits before it discards the session; None: it waits for no process, or that has ended.
    `participant` is the name of the one that answers for an outgoing session in an update.
    """

    bytes: int
    generation: int | None
    update: str | None
    preparing_seconds: float
    freezing_seconds: float
    process: int | None
    participant: str | None


@frozen
class Adopted:
    """The answer to Adopt: the session's name and direction, by the kernel."""

    name: str
    direction: Direction


@frozen
class Limit:
    """A limit on memory: the bytes it leaves, and its name, such as a cgroup's path."""

    available: int
    limit: str


@frozen
class MemoryRoom:
    """The answer to Room."""

    chargeable: Limit | None
    free: Limit | None
    unknown: str | None


@frozen
class GivenUp:
    """The answer to GiveUp: the sessions that were released, and those of them that another process has open."""

    released: list[str]
    open: list[str]
