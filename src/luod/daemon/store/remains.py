"""What is left when a keep ended that held sessions: the registry went with it, and only the file tells of them.

A session is there still as long as its client holds it, or as the kernel does, where it was never retrieved. `recall`
goes by the file, `verify` asks the kernel about the sessions of which the file cannot know. A keep that was stopped is
the same as one that was killed. A file that tells nothing is kept aside, and the registry has a doubt.
"""

from __future__ import annotations

from msgspec.structs import replace

from luod.daemon import clock
from luod.daemon.log import Log
from luod.daemon.store.copies import Told
from luod.daemon.store.doubts import doubted
from luod.daemon.store.fd_names import fd_name
from luod.daemon.store.fd_store import FdStore
from luod.daemon.store.registry import Registry
from luod.daemon.store.schema import (
    Departure,
    Doubt,
    IncomingRow,
    OutgoingRow,
    Owed,
    Record,
    Row,
    begun_record,
    boot_id,
    now,
)
from luod.daemon.store.states import IncomingState, OutgoingState
from luod.errors import NoSuchSession, SessionTaken


def arrived(row: OutgoingRow, departure: Departure | None) -> IncomingRow:
    """Returns what was outgoing as it is incoming: torn when a participant answers for it and was not ready for this
    kexec, be it one that luod did not make (H13). One that no participant ever declared is not torn.
    """
    ready = (
        row.state is OutgoingState.READY and departure is not None and row.generation in (None, departure.generation)
    )
    state = IncomingState.TORN if row.declared and not ready else IncomingState.WAITING
    return IncomingRow(
        row.base, row.owner, row.generation, row.bytes, row.preparing_seconds, row.freezing_seconds, row.kinds, state
    )


def asked(row: IncomingRow) -> IncomingRow:
    """Returns the row of a session of which it is not known whether luod asked the kernel for it."""
    return replace(row, state=IncomingState.RETRIEVED) if row.state is IncomingState.WAITING else row


def remaining(row: Row) -> Row:
    """Returns what is in this kernel still, after the end of keep: no update is under way, and the files of what was
    being forwarded are gone.
    """
    if row.state is OutgoingState.READY:
        return replace(row, state=OutgoingState.DECLARED)
    return replace(row, state=IncomingState.TAKEN) if row.state is IncomingState.CARRYING_OVER else row


def timed(departure: Departure) -> Departure:
    """With what the jump took: from right before reboot(2) to this moment."""
    if departure.left is None:
        return departure
    return replace(departure, crossing=clock.crossing(departure.left, departure.pace, clock.now()))


def owed(old: Record | None, *, other_kernel: bool) -> Owed | None:
    """What the record of before owes, in this kernel."""
    if old is None or old.owed is None or not other_kernel:
        return None if old is None else old.owed
    departure = old.departure
    return replace(old.owed, jumped=old.owed.jumped or (departure is not None and departure.update == old.owed.update))


def recall(told: Told, log: Log) -> Record:
    """Returns the record as the file has it, except for what `verify` has to find out."""
    old, boot = told.record, boot_id()
    doubts: tuple[Doubt, ...]
    if old is not None and old.boot_id == boot:
        for held in old.held:
            log.warning("files-lost", name=held.name, owner=held.owner, reason="luod ended")
        # What was made while frozen goes with its update (H14).
        over = [row for row in old.outgoing if row.ends_with_update]
        for each in over:
            log.warning("session-lost", name=each.name, owner=each.owner, reason="the update it was made for is over")
        rows = tuple(remaining(row) for row in old.rows if row not in over)
        doubts = old.doubts
        if told.rest:
            what = "the registry's file breaks off in an entry: it may be behind what luod knew when it ended"
            doubts += (doubted(log, what, refuses=True),)
        return begun_record(
            old.boot,
            rows,
            generation=old.generation,
            arrival=old.arrival,
            arrived=old.arrived,
            owed=old.owed,
            doubts=doubts,
        )
    if old is None or old.departure is None:
        ended = () if old is None else old.rows
        for row in ended:
            log.warning("session-lost", name=row.name, owner=row.owner, reason="its kernel ended without an update")
        doubts = ()
        if ended:
            what = (
                f"the registry's file is of another boot, which ended with {len(ended)} sessions and without an update"
            )
            doubts = (doubted(log, what, refuses=False),)
        return begun_record(1, owed=owed(old, other_kernel=True), doubts=doubts)
    # luod died in the jump, or right after it with the registry in its hands. Or this boot is no kexec's: `verify`
    # finds nothing then.
    log.warning("registry-lost", update=old.departure.update)
    rows = tuple(asked(arrived(row, old.departure)) for row in old.outgoing)
    return begun_record(
        old.boot + 1,
        rows,
        generation=old.generation,
        arrival=timed(old.departure),
        arrived=now(),
        owed=owed(old, other_kernel=True),
    )


async def verify(fds: FdStore, registry: Registry, log: Log) -> None:
    """Takes out of the registry what is lost. `fds` gains what had to be retrieved to know; no client had that. It can
    be repeated: what another serve had found when it was killed is in `fds`.

    An outgoing session of which a client has an fd is luod's to carry, though not to hold: it is `dropped`. An
    incoming one that was never retrieved waits in the kernel, and is not touched.
    """
    for outgoing in registry.record.outgoing:
        if fd_name(outgoing) in fds or not await fds.open_elsewhere(outgoing.name):
            lose(outgoing, registry, log)
    for before in registry.record.incoming:
        row = registry.incoming(before.name) or before  # it is torn by now where a part of its workload is lost
        if row.state is IncomingState.WAITING:
            continue
        try:
            if fd_name(row) not in fds:
                await fds.retrieve(row.name)
            if row.state is IncomingState.RETRIEVED:
                registry.become(row, IncomingState.TAKEN)
        except SessionTaken:
            if row.state is IncomingState.TAKEN:
                registry.become(row, IncomingState.RETRIEVED)
            log("session-elsewhere", name=row.name, owner=row.owner)
        except NoSuchSession:
            lose(row, registry, log)


def lose(row: Row, registry: Registry, log: Log) -> None:
    registry.lose(row)
    log.warning("session-lost", name=row.name, owner=row.owner, reason="nobody but luod had it, and luod ended")
