"""What a session may be called, whose it is, and what it is to an update. Asked by all parts of serve; no changes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Protocol

from luod.daemon.record import Row
from luod.daemon.takeover import SESSION
from luod.ipc.peer import Peer
from luod.ipc.sessions import InvalidName

NAME: Final = re.compile(r"[A-Za-z0-9._@/#-]{1,63}")
NUMBERED: Final = re.compile(r".+#[0-9]+")


def check_name(name: str) -> None:
    """InvalidName unless a program may give a session this name."""
    if not NAME.fullmatch(name):
        raise InvalidName(
            name=name,
            message=f"{name!r} is no name for a session",
            hint="a name has 1 to 63 of the letters A-Z a-z, digits, and . _ @ / # -",
        )
    if name == "systemd" or name.startswith(SESSION):
        raise InvalidName(
            name=name, message=f"the name {name!r} is reserved", hint="`systemd` and names that begin with `luod` are"
        )


def check_base(name: str, base: Row | None) -> None:
    """InvalidName for NAME#NUMBER of somebody who has no NAME, whose session is `base`: it would be in the way of who
    has NAME in some update to come, and in the next kernel look like what that wrote while frozen.
    """
    if base is None and NUMBERED.fullmatch(name):
        raise InvalidName(
            name=name,
            message=f"{name!r} is a name for what is written while frozen for session {name.rpartition('#')[0]!r}",
            hint="create that one first, or take a name that does not end in # and a number",
        )


def may_use(peer: Peer, row: Row) -> bool:
    """Whether a session is the peer's to use, or to know of. A user without a uid here is nobody's owner."""
    return peer.root or (peer.uid == row.owner and not peer.anonymous)


def counts(row: Row) -> bool:
    """Towards its owner's share. What is frozen in an update is as many as were declared, and must not fail for having
    come last; what luod forwarded nobody asked for.
    """
    return row.generation is None and not row.forwarded


@dataclass(frozen=True)
class Belonging:
    """What a new session is to those who take part in updates; see `luod.daemon.record.Row`."""

    judged: bool = False
    generation: int | None = None


class Participation(Protocol):
    """Says what a name would be, and whether an update is under way; `luod.daemon.participants` does."""

    @property
    def updating(self) -> bool: ...
    def belonging(self, peer: Peer, name: str) -> Belonging: ...
