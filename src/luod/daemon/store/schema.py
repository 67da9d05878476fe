"""The schema of the registry: a row for each session, and the fields that exist once.

Only data; `luod.daemon.store.registry` stores it. Every part of serve uses it. `luod.decode` reads the annotations.
"""

import os
import re
import time

from luod.daemon.clock import Crossing, Moment, Pace
from luod.daemon.store.states import IncomingState, OutgoingState
from luod.frozen import frozen
from luod.ipc.types.sessions import Direction
from luod.linux import boot_id
from luod.static import Any, Final

FORMAT: "Final" = 7
"""The format of a whole record, which it has in `format`. Another member here, and another kind of fd that the
supervisor holds, is another format: an older luod that does not know it refuses to start with the record
(`luod.daemon.refusing`).
"""
OLDEST_FORMAT: "Final" = 5
"""The oldest format that is read. 5: the record lacks the version of its writer. 6: incoming rows lack `resumed_by`."""
MOST_SESSIONS: "Final" = 1024
"""In both directions. The names of the supervisor's fds must fit an environment variable of 128 KiB."""


_OUTGOING: Direction = "outgoing"
_INCOMING: Direction = "incoming"


@frozen
class _Row:
    """The session `base`, or `base`#`generation`. `owner`, a uid of luod's user namespace, and root may use it. `bytes`
    and `kinds` of its files are as declared last; they also count when the participant is gone. The seconds are the
    time that its participant took to be ready in each phase of the update.
    """

    base: str
    owner: int
    generation: int | None = None
    bytes: int = 0
    preparing_seconds: float = 0.0
    freezing_seconds: float = 0.0
    kinds: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.base if self.generation is None else f"{self.base}#{self.generation}"


@frozen
class OutgoingRow(_Row):
    """A session for the next kernel. It has a generation while that update freezes, or after luod carried it over.
    `discard`: it ends with the process that created it.
    """

    direction = _OUTGOING

    state: OutgoingState = OutgoingState.UNDECLARED
    discard: bool = False

    @property
    def declared(self) -> bool:
        return self.state in (OutgoingState.DECLARED, OutgoingState.READY)

    @property
    def ends_with_update(self) -> bool:
        """Returns whether it belongs to one update and must not outlive it in this kernel (H14)."""
        return self.generation is not None and self.state is not OutgoingState.CARRIED_OVER


@frozen
class IncomingRow(_Row):
    """A session that was preserved over the last kexec. `resumed_by`: the number (`luod.linux.process_number`) of the
    process that reported that its guest resumes; 0 before that, and for a process without a number.
    """

    direction = _INCOMING

    state: IncomingState = IncomingState.WAITING
    resumed_by: int = 0


Row = OutgoingRow | IncomingRow


@frozen
class Image:
    """The next kernel, as loaded through luod. The supervisor has its files, under names with `number`."""

    number: int
    initrd: bool
    command_line: str


@frozen
class HeldFile:
    """A file that luod holds for a program; the supervisor has it under a name with `number`."""

    number: int
    name: str


@frozen
class Held:
    """A stash: files that luod holds for the user `owner`, see `luod.daemon.sessions.held_files`. A kexec does not
    preserve them.
    """

    owner: int
    name: str
    files: tuple[HeldFile, ...]


@frozen
class Departure:
    """The update of a kexec: it is in the registry from right before reboot(2), at `left`, until that returns. In the
    next kernel, which it `reached` at luod's start, it stays, and gets the duration of the kexec, `crossing`.
    """

    update: str
    generation: int
    skip_unready: bool
    preparing_seconds: float
    freezing_seconds: float
    left: Moment | None = None
    pace: Pace | None = None
    reached: Moment | None = None
    crossing: Crossing | None = None


@frozen
class Owed:
    """An update with a hook after-update that has not run yet; `jumped`: its kexec has taken place."""

    update: str
    generation: int
    jumped: bool = False


@frozen
class Doubt:
    """A copy of the registry that luod did not use for this one. `kept` is the place of its bytes.

    `refuses`: there may be sessions that luod does not know, and that an update would lose.
    """

    what: str
    kept: str = ""
    refuses: bool = False


@frozen
class Record:
    """The whole registry. `boot` counts the kernels since luod first ran, from 1; `boot_id` is the kernel's own.

    `generation` counts the updates that were begun. `departure` is the one in its kexec now, `arrival` the one that
    preserved the incoming sessions; None after a kexec without luod. `arrived` is the CLOCK_BOOTTIME from which the
    restore deadline counts: luod's first start in this kernel, or the last change of the deadline. `instance` is random
    for each new registry; entry numbers are compared within one instance only. `machine` is the machine-id(5), "" if it
    has none. `doubts` are the copies that were not used.
    """

    format: int
    boot: int
    boot_id: str
    rows: tuple[Row, ...] = ()
    image: Image | None = None
    generation: int = 0
    departure: Departure | None = None
    arrival: Departure | None = None
    arrived: float | None = None
    held: tuple[Held, ...] = ()
    owed: Owed | None = None
    instance: str = ""
    machine: str = ""
    doubts: tuple[Doubt, ...] = ()

    @property
    def outgoing(self) -> list[OutgoingRow]:
        return [row for row in self.rows if isinstance(row, OutgoingRow)]

    @property
    def incoming(self) -> list[IncomingRow]:
        return [row for row in self.rows if isinstance(row, IncomingRow)]


def begun_record(boot: int, rows: tuple[Row, ...] = (), **fields: "Any") -> Record:
    """Returns the record of a new registry, with a new instance, in this boot of this machine."""
    return Record(FORMAT, boot, boot_id(), rows, instance=os.urandom(8).hex(), machine=machine_id(), **fields)


def now() -> float:
    """Returns the time on the clock of `Record.arrived`."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def machine_id() -> str:
    """Returns the machine-id(5); "" if it is missing or not set yet."""
    try:
        with open("/etc/machine-id", encoding="ascii") as file:
            text = file.read().strip()
    except (OSError, UnicodeDecodeError):
        return ""
    return text if re.fullmatch(r"[0-9a-f]{32}", text) else ""
