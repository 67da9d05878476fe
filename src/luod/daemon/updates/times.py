"""The timeline of an update that is under way, made from its barrier and the registry.

The story that this module makes is plain data, defined in `luod.daemon.timeline.timeline`. Its record on the disk is
`luod.daemon.timeline.recorder`.
"""

from __future__ import annotations

from collections.abc import Iterable
from time import monotonic, time
from typing import TYPE_CHECKING

from luod.daemon.store.schema import Row
from luod.daemon.timeline.timeline import Current, Passage, Story, bytes_of, groups
from luod.ipc.types.phases import SessionStanding

if TYPE_CHECKING:  # no start of serve needs it: that would lie in the blackout
    from luod.daemon.updates.coordinator import Barrier


def current(barrier: Barrier, rows: Iterable[Row], *, over: bool = False) -> Current:
    """Returns the story up to now. `over`: the update ends now, by being cancelled."""
    now = monotonic()
    ended = round(now - barrier.begun, 6) if over else None
    return Current(story(barrier, rows, time() - (now - barrier.begun), ended), barrier.begun)


def story(barrier: Barrier, rows: Iterable[Row], asked: float, ended: float | None) -> Story:
    """Returns the story in the kernel in which the update was requested: under way, or `ended` by being cancelled."""
    transaction, begun = barrier.transaction, barrier.begun
    owners = {name: id for id, follower in barrier.members.items() for name in follower.names}
    passages = {}
    for name, group in groups(row for row in rows if row.direction == "outgoing"):
        main = group[0]
        id = owners.get(name)
        member = None if id is None else transaction.members.get(id)
        if id is None or member is None:
            standing: SessionStanding = "lost" if name in barrier.orphans else "unasked"
            passages[name] = Passage(name, main.owner, bytes_of(group), standing)
            continue
        reached = round(member.since - begun, 6) if member.standing == "ready" else None
        prepared = barrier.preparing.get(id) if barrier.frozen else reached
        passages[name] = Passage(
            name,
            main.owner,
            bytes_of(group),
            member.standing,
            member.reason,
            prepared=None if prepared is None else round(prepared, 6),
            frozen=reached if barrier.frozen else None,
        )
    return Story(
        barrier.id,
        barrier.generation,
        transaction.skip_unready,
        round(asked, 6),
        transaction.phase,
        transaction.reason,
        freezing=round(barrier.frozen - begun, 6) if barrier.frozen else None,
        jumping=round(barrier.jumped - begun, 6) if barrier.jumped else None,
        ended=ended,
        sessions=passages,
    )
