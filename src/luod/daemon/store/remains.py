"""Recovers sessions after the supervisor has ended in the same kernel: the registry's memory is lost, only the file is
left.

A session still exists if a client has it open, or if it was never retrieved from the kernel. `recall` reads the file,
`verify` asks the kernel about the sessions that may be lost. It makes no difference whether the supervisor was stopped
or killed. An unusable file is kept under another name, and the registry records a doubt.
"""

from __future__ import annotations

from luod.daemon import clock
from luod.daemon.store.doubts import doubted
from luod.daemon.store.fd_names import fd_name
from luod.daemon.store.schema import IncomingRow, OutgoingRow, Owed, begun_record, now
from luod.daemon.store.states import IncomingState, OutgoingState
from luod.errors import NoSuchSession, SessionTaken
from luod.frozen import replace
from luod.linux import boot_id
from luod.static import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from luod.daemon.log import Log
    from luod.daemon.store.copies import Told
    from luod.daemon.store.fd_store import FdStore
    from luod.daemon.store.registry import Registry
    from luod.daemon.store.schema import Departure, Doubt, Record, Row

_WAS_LUODS: Final = "only luod had it open, and luod ended"


def arrived(row: OutgoingRow, departure: Departure | None) -> IncomingRow:
    """Returns the incoming row of a session that was outgoing. It is torn if it was declared and its participant was
    not ready for this kexec, even for a kexec without luod (H13). An undeclared session is not torn.
    """
    ready = (
        row.state is OutgoingState.READY and departure is not None and row.generation in (None, departure.generation)
    )
    state = IncomingState.TORN if row.declared and not ready else IncomingState.WAITING
    return IncomingRow(
        row.base, row.owner, row.generation, row.bytes, row.preparing_seconds, row.freezing_seconds, row.kinds, state
    )


def asked(row: IncomingRow) -> IncomingRow:
    """Returns the row of a session that luod may or may not have retrieved."""
    return replace(row, state=IncomingState.RETRIEVED) if row.state is IncomingState.WAITING else row


def remaining(row: Row) -> Row:
    """Returns the row after the end of the supervisor: no update runs, and the files of an unfinished carry-over are
    lost.
    """
    if row.state is OutgoingState.READY:
        return replace(row, state=OutgoingState.DECLARED)
    return replace(row, state=IncomingState.TAKEN) if row.state is IncomingState.CARRYING_OVER else row


def reached(departure: Departure) -> Departure:
    """Returns the departure with this moment as the end of its kexec."""
    return replace(departure, reached=clock.now(count=False))


def owed(old: Record | None, *, other_kernel: bool) -> Owed | None:
    """Returns the hook after-update that the old record leaves to this luod; None without one."""
    if old is None or old.owed is None or not other_kernel:
        return None if old is None else old.owed
    departure = old.departure
    return replace(old.owed, jumped=old.owed.jumped or (departure is not None and departure.update == old.owed.update))


def recall(told: Told, log: Log) -> Record:
    """Returns the record according to the file. `verify` must check it."""
    old, boot = told.record, boot_id()
    doubts: tuple[Doubt, ...]
    if old is not None and old.boot_id == boot:
        # Sessions created while frozen end with their update (H14).
        over = [row for row in old.outgoing if row.ends_with_update]
        for each in over:
            log.warning("session-lost", name=each.name, owner=each.owner, reason="its update is over")
        rows = tuple(remaining(row) for row in old.rows if row not in over)
        doubts = old.doubts
        if told.rest:
            what = "the registry's file ends in an incomplete entry: it may lack luod's last changes"
            doubts += (doubted(log, what, refuses=True),)
        return begun_record(
            old.boot,
            rows,
            generation=old.generation,
            arrival=old.arrival,
            arrived=old.arrived,
            held=old.held,
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
    # luod ended in the kexec, or right after it had retrieved the registry; or this boot is not by kexec: then `verify`
    # removes all rows, and the update.
    log.warning("registry-lost", update=old.departure.update)
    rows = tuple(asked(arrived(row, old.departure)) for row in old.outgoing)
    return begun_record(
        old.boot + 1,
        rows,
        generation=old.generation,
        arrival=reached(old.departure),
        arrived=now(),
        owed=owed(old, other_kernel=True),
    )


async def verify(fds: FdStore, registry: Registry, log: Log) -> None:
    """Removes lost sessions from the registry. Sessions that it must retrieve to find out are stored in `fds`. It can
    be repeated: `fds` has the results of a serve that was killed, and what PID 1 had held.

    An outgoing session that only a client has open is still preserved; its state is `dropped`. An incoming session that
    was never retrieved waits in the kernel, and is not touched. If no session of an update is left whose registry is
    lost too, then it has not arrived: systemd starts a machine cold when the kernel refuses a kexec (H15), and PID 1
    closes the store of a unit that the next system does not have.
    """
    for outgoing in registry.record.outgoing:
        if fd_name(outgoing) not in fds and not await fds.open_elsewhere(outgoing.name):
            lose(outgoing, registry, log, _WAS_LUODS)
    arrival = registry.rest.arrival
    other_kernel = arrival is not None and arrival.crossing is None  # the first serve of a kernel measures it, later
    for before in registry.record.incoming:
        row = registry.incoming(before.name) or before  # torn by now if another session of its workload is lost
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
            retrieved_here = row.state is IncomingState.TAKEN or not other_kernel
            lose(row, registry, log, _WAS_LUODS if retrieved_here else "this kernel does not have it")
    if arrival is not None and arrival.crossing is None and not registry.record.incoming:
        log.warning("update-lost", update=arrival.update, reason="none of its sessions is in this kernel")
        registry.not_arrived()


def lose(row: Row, registry: Registry, log: Log, reason: str) -> None:
    registry.lose(row)
    log.warning("session-lost", name=row.name, owner=row.owner, reason=reason)
