"""Makes the timeline of a running update from its coordinator and the registry.

The timeline is plain data, defined in `luod.daemon.timeline.timeline`; `luod.daemon.timeline.recorder` writes it to the
disk.
"""

from __future__ import annotations

from time import monotonic, time

from luod.daemon.timeline.timeline import Current, Timeline, bytes_of, groups
from luod.ipc.types.admin import SessionTimes
from luod.static import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from luod.daemon.store.schema import OutgoingRow
    from luod.daemon.updates.coordinator import Coordinator
    from luod.ipc.types.phases import SessionStanding


def current(coordinator: Coordinator, rows: Iterable[OutgoingRow], *, over: bool = False) -> Current:
    """Returns the timeline up to now. `over`: the update is cancelled now."""
    now = monotonic()
    ended = round(now - coordinator.begun, 6) if over else None
    return Current(timeline(coordinator, rows, time() - (now - coordinator.begun), ended), coordinator.begun)


def timeline(coordinator: Coordinator, rows: Iterable[OutgoingRow], asked: float, ended: float | None) -> Timeline:
    """Returns the timeline before the kexec; `ended`: when the update was cancelled."""
    transaction, begun = coordinator.transaction, coordinator.begun
    owners = {name: id for id, follower in coordinator.members.items() for name in follower.names}
    sessions = {}
    for name, group in groups(rows):
        main = group[0]
        id = owners.get(name)
        member = None if id is None else transaction.members.get(id)
        if id is None or member is None:
            standing: SessionStanding = "lost" if name in coordinator.unfollowed else "unasked"
            sessions[name] = SessionTimes(name, main.owner, bytes_of(group), standing)
            continue
        reached = round(member.since - begun, 6) if member.standing == "ready" else None
        prepared = coordinator.preparing.get(id) if coordinator.frozen else reached
        sessions[name] = SessionTimes(
            name,
            main.owner,
            bytes_of(group),
            member.standing,
            member.reason,
            prepared=None if prepared is None else round(prepared, 6),
            frozen=reached if coordinator.frozen else None,
        )
    return Timeline(
        coordinator.id,
        coordinator.generation,
        transaction.skip_unready,
        round(asked, 6),
        transaction.phase,
        sessions,
        transaction.reason,
        freezing=round(coordinator.frozen - begun, 6) if coordinator.frozen else None,
        jumping=round(coordinator.jumped - begun, 6) if coordinator.jumped else None,
        ended=ended,
        way=coordinator.way,
    )
