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
    Owed,
    Record,
    Row,
    begun_record,
    boot_id,
    ends_with_update,
    now,
)
from luod.errors import NoSuchSession, SessionTaken


def arrived(row: Row, departure: Departure | None) -> Row:
    """What was outgoing, as it is incoming: torn when a participant answers for it and was not ready for this jump, be
    it one that luod did not make (H13). For a session nobody ever declared nobody answers, so it is not judged.
    """
    torn = row.judged and not (departure is not None and row.ready and row.generation in (None, departure.generation))
    return replace(
        row, direction="incoming", judged=False, ready=False, torn=torn, discard=False, forwarded=False, retrieved=False
    )


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
        for row in old.rows:
            if ends_with_update(row):
                log.warning("session-lost", name=row.name, owner=row.owner, reason="the update it was made for is over")
        # What was made while frozen goes with its update (H14).
        rows = tuple(replace(row, ready=False, forwarding=False) for row in old.rows if not ends_with_update(row))
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
    rows = tuple(
        replace(arrived(row, old.departure), retrieved=True) for row in old.rows if row.direction == "outgoing"
    )
    return begun_record(
        old.boot + 1,
        rows,
        generation=old.generation,
        arrival=timed(old.departure),
        arrived=now(),
        owed=owed(old, other_kernel=True),
    )


async def verify(fds: FdStore, registry: Registry, log: Log) -> frozenset[str]:
    """Takes out of the registry what is lost. `fds` gains what had to be retrieved to know; given are their names, for
    nobody has claimed them. It can be repeated: what another serve had found when it was killed is in `fds`.

    An outgoing session of which a client has an fd is luod's to carry, though not to hold: it is `dropped`. An
    incoming one that was never retrieved waits in the kernel, and is not touched.
    """
    retrieved = set()
    for row in registry.record.rows:
        if row.direction == "outgoing":
            there = fd_name(row) not in fds and await fds.open_elsewhere(row.name)
        elif row.retrieved:
            there = True
            try:
                if fd_name(row) not in fds:
                    await fds.retrieve(row.name)
                retrieved.add(row.name)
            except SessionTaken:
                log("session-elsewhere", name=row.name, owner=row.owner)
            except NoSuchSession:
                there = False
        else:
            continue
        if not there:
            registry.lose(row)
            log.warning("session-lost", name=row.name, owner=row.owner, reason="nobody but luod had it, and luod ended")
    return frozenset(retrieved)
