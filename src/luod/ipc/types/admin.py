"""The types of `io.luod.Admin`."""

from luod.frozen import frozen
from luod.ipc.types.phases import Clock, Phase, SessionStanding, Standing, UpdateState, Way
from luod.static import Literal


@frozen
class Participant:
    """A participant of an update. `bytes` are those of all its declared files.

    `seconds` is the time until it reached its standing in this phase, or until now for an awaited one.
    """

    id: int
    name: str
    uid: int
    pid: int
    sessions: list[str]
    bytes: int
    standing: Standing
    reason: str | None
    seconds: float


@frozen
class Stuck:
    """A session whose reaper failed, and the reason."""

    name: str
    reason: str


@frozen
class Finding:
    """A finding of luod before an update. `name` is stable; `what`, `why` and `remedy` are for people.

    A refusal prevents the update unless it is `ignored`.
    """

    name: str
    severity: Literal["refusal", "warning"]
    what: str
    why: str
    remedy: str
    ignored: bool = False

    @property
    def refuses(self) -> bool:
        return self.severity == "refusal" and not self.ignored


@frozen
class Problem:
    """A problem of a file or directory of luod's own, or the place of an unused copy of the registry ("" for none), and
    the remedy. For people.
    """

    path: str
    what: str
    remedy: str


@frozen
class PlannedSession:
    """An outgoing session that an update would carry. `bytes` are those of the files that its participant declared.

    `participant` is its name, None: no participant answers for the session.
    """

    name: str
    owner: int
    bytes: int
    participant: str | None


@frozen
class Blackout:
    """Blackouts of earlier updates of this host, in seconds: of the last `updates` ones the median and the longest."""

    updates: int
    expected: float
    longest: float


@frozen
class Checked:
    """The answer to Check. `release` is the next kernel's, None if its image cannot be read. `running` is the running
    kernel's. `current`: the next kernel runs already, with the same command line. `torn`: sessions that an update would
    not carry whole. `blackout`: None if none was recorded.
    """

    refused: bool
    release: str | None
    findings: list[Finding]
    current: bool = False
    running: str | None = None
    sessions: tuple[PlannedSession, ...] = ()
    participants: tuple[Participant, ...] = ()
    torn: tuple[str, ...] = ()
    blackout: Blackout | None = None


@frozen
class Progress:
    """One reply of Update. `participants` are those with news. `findings` are in the first reply.

    `torn` are sessions that will not be handed out in the next kernel. `seconds_left` until the deadline of the phase.
    `way`: how the next kernel is started. "checked" is the answer to a dry run, "prepared" the last one to `detach`.
    """

    state: Literal[Phase, "checked", "prepared"]
    update: str = ""
    generation: int = 0
    seconds_left: float | None = None
    participants: tuple[Participant, ...] = ()
    torn: tuple[str, ...] = ()
    reason: str | None = None
    findings: tuple[Finding, ...] = ()
    way: Way | None = None

    @property
    def refused(self) -> bool:
        """Returns whether the update would be refused. Only a dry run gets such an answer."""
        return self.state == "checked" and any(finding.refuses for finding in self.findings)


@frozen
class Wishes:
    """The operator's options for an update. `deadline` is in seconds, of each phase, None for the default.

    `ignore_findings` are the names of findings that do not prevent the update. `way`: None for luod's choice.
    `detach`: the last reply comes before guests are frozen, and the update no longer depends on the connection.
    """

    deadline: float | None = None
    skip_unready: bool = False
    dry_run: bool = False
    ignore_findings: tuple[str, ...] = ()
    way: Way | None = None
    detach: bool = False


@frozen
class Status:
    """The answer to Status, which documents its members."""

    version: str
    state: str
    boot: int
    kernel_loaded: bool
    command_line: str | None
    sessions: int
    waiting: int
    retrieved: int
    torn: int
    participants: int
    held_files: int
    generation: int
    stuck: list[Stuck]
    restore_seconds_left: float | None
    policy_file: str | None
    policy_error: str | None
    state_directory: list[Problem]
    registry: list[Problem]
    fd_store: tuple[Problem, ...] = ()
    undo: tuple[Problem, ...] = ()
    way: Way = "direct"
    shutdown_lock: str | None = None
    outgoing_bytes: int = 0
    incoming_bytes: int = 0


@frozen
class SessionTimes:
    """One session of a timeline, with what was made of it while frozen. Times are as in UpdateTimes. standing: its
    participant's; unasked: it has none; torn: it came over without its participant's ready. prepared, frozen: it was
    ready. resumed: its guest was about to run. gone: released, or lost. blackout: from freezing to resumed, or to the
    end of a cancelled update.
    """

    name: str
    owner: int
    bytes: int
    standing: SessionStanding
    reason: str | None = None
    prepared: float | None = None
    frozen: float | None = None
    retrieved: float | None = None
    resumed: float | None = None
    gone: float | None = None
    outcome: str | None = None
    blackout: float | None = None


@frozen
class UpdateTimes:
    """The timeline of one update. Times are seconds since the update was requested, through the kexec; null: it has not
    come to that. asked: when that was, in seconds since 1970. clock: what measured the time over the kexec, which may
    be wrong by error seconds. now: null when the update is over, or its kernel has ended. blackout: the longest of
    any session. way: how the next kernel was started.
    """

    update: str
    generation: int
    skip_unready: bool
    asked: float
    state: UpdateState
    reason: str | None = None
    freezing: float | None = None
    jumping: float | None = None
    arrived: float | None = None
    ended: float | None = None
    now: float | None = None
    clock: Clock | None = None
    error: float | None = None
    blackout: float | None = None
    sessions: tuple[SessionTimes, ...] = ()
    way: Way = "direct"
