"""What luod remembers, as it is written down: a row for each session, and what there is but once.

Only the words; where they are kept is `luod.daemon.store.registry`. Read and written by every part of serve.
"""

from __future__ import annotations

import re
import secrets
import time
from pathlib import Path
from typing import Any, ClassVar, Final

import msgspec

from luod.daemon.clock import Crossing, Moment, Pace
from luod.daemon.store.states import IncomingState, OutgoingState
from luod.ipc.types.sessions import Direction

FORMAT: Final = 4
MOST_SESSIONS: Final = 1024
"""Of both directions. Their names must fit an environment variable, 128 KiB, with those of keep's other fds."""


class _Row(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, tag_field="direction"):
    """The session `base`, or `base`#`generation`, and who may use it: the user `owner`, a uid of luod's user namespace,
    and root. `bytes`, `kinds` of the files in it, and the seconds that its participant took to be ready in each phase
    are as they were in the update. The kinds count for the next kernel also when the participant is gone.
    """

    direction: ClassVar[Direction]

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


class OutgoingRow(_Row, frozen=True, tag="outgoing"):
    """A session for the next kernel. It has a generation while that update freezes, or after luod forwarded it.
    `discard`: it ends when the process that created it does.
    """

    direction: ClassVar[Direction] = "outgoing"

    state: OutgoingState = OutgoingState.UNDECLARED
    discard: bool = False

    @property
    def declared(self) -> bool:
        return self.state in (OutgoingState.DECLARED, OutgoingState.READY)

    @property
    def ends_with_update(self) -> bool:
        """Whether it belongs to one update and must not outlive it in this kernel (H14)."""
        return self.generation is not None and self.state is not OutgoingState.CARRIED_OVER


class IncomingRow(_Row, frozen=True, tag="incoming"):
    """A session that came over the last kexec."""

    direction: ClassVar[Direction] = "incoming"

    state: IncomingState = IncomingState.WAITING


Row = OutgoingRow | IncomingRow


class Image(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The next kernel, as it was loaded through luod. Its files are stored with keep, under names with `number`."""

    number: int
    initrd: bool
    command_line: str


class HeldFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file that luod holds for a program; keep has it under a name with `number`."""

    number: int
    name: str


class Held(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A set of files that the user `owner` has handed over, see `luod.daemon.sessions.held_files`. No kernel carries
    them on.
    """

    owner: int
    name: str
    files: tuple[HeldFile, ...]


class Departure(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The update that jumps: it is in the registry from right before reboot(2), and goes when that returns. The next
    kernel keeps it, with what the jump took, `crossing`; `left` is when this one was left.
    """

    update: str
    generation: int
    skip_unready: bool
    preparing_seconds: float
    freezing_seconds: float
    left: Moment | None = None
    pace: Pace | None = None
    crossing: Crossing | None = None


class Owed(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """An update whose hook after-update is still to run; `jumped`: its jump has taken place."""

    update: str
    generation: int
    jumped: bool = False


class Doubt(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A copy of the registry that luod did not go by when this one was begun. `kept` is where its bytes are now.

    `refuses`: there may be sessions that luod does not know of, and that an update would lose.
    """

    what: str
    kept: str = ""
    refuses: bool = False


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """All of it. `boot` counts the kernels since luod first ran, from 1; `boot_id` is the kernel's own.

    `generation` counts the updates that were begun. `departure` is the one that jumps now, `arrival` the one that
    brought the incoming sessions; None when a jump came about without luod. `arrived` is when luod found them in this
    kernel, by CLOCK_BOOTTIME, or when the restore deadline was changed since: that counts from then on. `instance` is
    random: each registry that begins has another, and numbers are compared within one instance only. `machine` is its
    machine-id(5), "" where it has none. `doubts` are the copies that were not believed.
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


def begun_record(boot: int, rows: tuple[Row, ...] = (), **fields: Any) -> Record:
    """Returns the record of a registry that begins in this boot of this machine, as an instance of its own."""
    return Record(FORMAT, boot, boot_id(), rows, instance=secrets.token_hex(8), machine=machine_id(), **fields)


def now() -> float:
    """As `Record.arrived` counts."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def machine_id() -> str:
    """Returns the machine-id(5); "" where there is none, or none yet."""
    try:
        text = Path("/etc/machine-id").read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""
    return text if re.fullmatch(r"[0-9a-f]{32}", text) else ""
