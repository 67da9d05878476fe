"""Makes the first record in a new kernel, from the registry that was preserved or from the file.

`luod.daemon.store.remains` does so in the same kernel, after the supervisor has ended.
"""

from __future__ import annotations

import errno

from luod.daemon.store.copies import Fault, Told, newer, refuse_newer, understand
from luod.daemon.store.doubts import aside, doubted, keep_memory, read_file
from luod.daemon.store.journal import Slots
from luod.daemon.store.registry import Registry
from luod.daemon.store.remains import arrived, owed, reached, recall
from luod.daemon.store.schema import begun_record, machine_id, now
from luod.daemon.store.states import IncomingState
from luod.errors import KernelRefused, LuodError
from luod.frozen import replace
from luod.linux import boot_id
from luod.liveupdate import IncomingSession
from luod.static import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from luod.daemon.log import Log
    from luod.daemon.store.fd_store import FdStore
    from luod.daemon.store.journal_file import Journal
    from luod.daemon.store.schema import Record
    from luod.linux import Fd

TOKEN: Final = 0
"""The token of the registry's memory in luod's session."""
MEMORY: Final = "the registry in luod's session"
BEHIND: Final = f"{MEMORY} is damaged at its end; its file is newer and was believed"


async def inherited(fds: FdStore, session: Fd, file: Journal, log: Log) -> Record:
    """Returns the first record, from the preserved registry, or from the file in its place. Raises WrittenByNewer.

    Raises KernelRefused: EMFILE, ENFILE; the registry is still there, and the next serve tries again.
    """
    try:
        with IncomingSession(session.duplicate()) as incoming:
            memory = Slots(incoming.retrieve(TOKEN, check_memory=False))
    except LuodError as error:
        if isinstance(error, KernelRefused) and error.errno in (errno.EMFILE, errno.ENFILE):
            raise
        what = f"luod's session holds no registry: {error}"
        return _in_place_of(Told(fault=Fault("damaged", what)), "", file, log)
    try:
        try:
            held = refuse_newer(understand(memory.read(), MEMORY))
        except OSError as error:
            held = Told(fault=Fault("unreadable", f"{MEMORY} cannot be read: {error.strerror or error}"))
            return _in_place_of(held, "", file, log)
        if held.record is None:
            assert held.fault is not None
            place = await keep_memory(fds, memory, held.fault.kind, file, log)
            return _in_place_of(held, place, file, log)
    finally:
        memory.close()
    kept = read_file(file, held)
    doubts = aside(file, kept, log, refuses=False)
    old = held.record
    if newer(held, kept):
        assert kept.record is not None
        old = kept.record
        doubts += (doubted(log, BEHIND, refuses=False),)
    here = machine_id()
    if old.machine and here and old.machine != here:
        what = f"{MEMORY} has machine-id {old.machine}, this machine has {here}; it was preserved and believed"
        doubts += (doubted(log, what, refuses=False),)
    record = _carried(old, log)
    return replace(record, doubts=doubts)


def _in_place_of(held: Told, place: str, file: Journal, log: Log) -> Record:
    """Returns the first record if the preserved registry is unusable."""
    kept = read_file(file)
    assert held.fault is not None
    if kept.record is None:
        missing = "" if kept.fault is not None else f"; there is no file {file.path}"
        doubts = (doubted(log, held.fault.what + missing, place, refuses=True), *aside(file, kept, log, refuses=True))
        return begun_record(1, doubts=doubts)
    again = kept.record.boot_id == boot_id()
    record = recall(kept, log) if again else _carried(kept.record, log)
    doubt = doubted(log, f"{held.fault.what}; its file was believed", place, refuses=kept.rest)
    return replace(record, doubts=(*record.doubts, doubt))


def _carried(old: Record, log: Log) -> Record:
    """Returns this kernel's record, made from that of the previous kernel: outgoing sessions become incoming."""
    departure = old.departure
    if departure is not None:
        log.restoring = departure.update
    for held in old.held:
        log.warning("files-lost", name=held.name, owner=held.owner, reason="a kexec does not preserve them")
    for row in old.incoming:
        log.warning("session-lost", name=row.name, owner=row.owner, reason="not finished before the kexec")
    rows = tuple(arrived(row, old.departure) for row in old.outgoing)
    torn = [row.name for row in rows if row.state is IncomingState.TORN]
    if departure is None:
        log.warning("arrived-without-luod", sessions=len(rows), torn=len(torn))
    else:
        departure = reached(departure)
    for name in torn:
        log.warning("session-torn", name=name, reason="its participant was not ready for the kexec")
    return begun_record(
        old.boot + 1,
        rows,
        generation=old.generation,
        arrival=departure,
        arrived=now(),
        owed=owed(old, other_kernel=True),
    )


def strand(file: Journal, log: Log) -> Registry:
    """Makes the registry from the file alone, in a kernel that answers EIO. The next kexec will not preserve it."""
    kept = read_file(file)
    old, record = kept.record, begun_record(1, doubts=aside(file, kept, log, refuses=True))
    if old is not None and old.boot_id == record.boot_id:
        record = replace(
            record, boot=old.boot, rows=tuple(old.incoming), generation=old.generation, arrival=old.arrival
        )
    elif old is not None:
        rows = tuple(arrived(row, old.departure) for row in old.outgoing)
        departure = None if old.departure is None else reached(old.departure)
        record = replace(record, boot=old.boot + 1, rows=rows, generation=old.generation, arrival=departure)
    record = replace(record, owed=owed(old, other_kernel=old is not None and old.boot_id != record.boot_id))
    for row in record.rows:
        log.error("session-lost", name=row.name, owner=row.owner, reason="this kernel could not take it over")
    registry = Registry(record, Slots.new(), file, log)
    registry.set_image(None)
    return registry
