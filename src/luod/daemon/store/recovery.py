"""Recovers the state at the start of serve, from the fds of a previous serve or the registry of a previous kernel.

Afterwards the registry is current, preserved in luod's own outgoing session, and agrees with the fds that the
supervisor holds. Every step can be repeated: if serve is killed in the middle, the next one begins here again. All of
it precedes serve's first answer to a client.
"""

from __future__ import annotations

import asyncio

from luod.daemon.store.copies import Fault, Told, believed, current, refuse_newer, understand
from luod.daemon.store.doubts import adopted, aside, doubted, keep_memory, read_file
from luod.daemon.store.fd_names import (
    ASIDE,
    DISK,
    HOOK,
    INHIBITOR,
    JUMP,
    REGISTRY,
    UNITS,
    fd_name,
    held_name,
    image_names,
    is_carried,
    session_of,
)
from luod.daemon.store.inherited import BEHIND, MEMORY, TOKEN, inherited, strand
from luod.daemon.store.journal import Slots
from luod.daemon.store.journal_file import Journal
from luod.daemon.store.registry import Registry
from luod.daemon.store.remains import recall, verify
from luod.daemon.store.schema import FORMAT, Doubt, begun_record, machine_id
from luod.daemon.store.states import IncomingState
from luod.daemon.supervisor import protocol
from luod.errors import KernelRefused, LiveUpdateBroken, LuodError, MemoryUnknown, NoSuchSession, TokenInUse
from luod.frozen import frozen, replace
from luod.linux import Fd, boot_id
from luod.liveupdate import IncomingSession, OutgoingSession
from luod.static import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from luod.daemon.log import Log
    from luod.daemon.store.fd_store import FdStore
    from luod.daemon.store.schema import Held, Record
    from luod.daemon.store.write_hold import WriteHold

SESSION: Final = protocol.REGISTRY_SESSION
"""The session that preserves the registry. Names that begin with it are reserved."""


@frozen
class Holdings:
    """The registry and the fds of serve. Owns both."""

    registry: Registry
    fds: FdStore
    broken: LiveUpdateBroken | None = None
    """Set if this kernel could not take over the preserved sessions: it can preserve none either (H20)."""

    def close(self) -> None:
        self.registry.close()
        self.fds.close()


async def take_over(fds: FdStore, directory: str, hold: WriteHold, log: Log) -> Holdings:
    """Takes over `fds`, the stored fds of the supervisor. `hold` has begun: until the registry is read, it is not known
    whether guests wait. It ends here if none does. Raises KernelRefused. Raises WrittenByNewer: nothing was changed.
    """
    file = Journal(directory, hold)
    if JUMP in fds or DISK in fds:
        # Guests may be paused, and the process that writes in place of serve may still run. Updater ends the hold.
        hold.begin()
    broken = None
    stored, others = await _stored(fds, file, log)
    try:
        if stored is None:
            registry = await _begin(fds, file, log)
        else:
            registry = await _again(fds, stored, file, log)
            log.debug("serve-again", boot=registry.rest.boot)
            if JUMP not in fds:
                # The end of the previous serve cancelled its update: no guest is frozen for it any more.
                registry.stay()
    except LiveUpdateBroken as error:
        registry, broken = strand(file, log), error
    if others is not None:
        _adopt(fds, registry, log, others)
    await _agree(fds, registry, log)
    arrival = registry.rest.arrival
    if arrival is not None and (registry.any_incoming or arrival.crossing is None):
        log.restoring = arrival.update
    registry.soon, fds.before_request = asyncio.get_running_loop().call_soon, registry.write
    if hold.restoring and not registry.any_incoming:
        hold.end()
    return Holdings(registry, fds, broken)


async def finish_old(fds: FdStore, log: Log) -> None:
    """Finishes the session that brought the registry of the previous kernel, which could be read again until now (H11).

    No guest waits for this.
    """
    if protocol.INCOMING + SESSION in fds:
        with IncomingSession(fds[protocol.INCOMING + SESSION].duplicate()) as old:
            try:
                old.finish(discard=True)
            except KernelRefused as error:
                log.error(
                    "registry-session", error=error, meaning="the old registry's memory stays until the next boot"
                )
        await fds.drop(protocol.INCOMING + SESSION)


async def _stored(fds: FdStore, file: Journal, log: Log) -> tuple[str | None, Record | None]:
    """Returns the name under which the supervisor holds the registry's memory; None without one. If it holds several,
    since serve was killed before it dropped the old one, the others are kept aside, and their rows and doubts are
    returned.
    """
    names = [name for name in fds if name.startswith(REGISTRY)]
    if len(names) < 2:
        return (names[0] if names else None), None
    memories = {name.removeprefix(REGISTRY): Slots(fds[name].duplicate()) for name in names}
    told = {instance: refuse_newer(understand(memory.read(), MEMORY)) for instance, memory in memories.items()}
    chosen = current(told, read_file(file), boot_id())
    others = begun_record(1)
    for instance, memory in memories.items():
        record, best = told[instance].record, told[chosen].record
        if instance != chosen and (record is None or best is None or record.instance != best.instance):
            place = await keep_memory(fds, memory, "other", file, log)
            doubt = doubted(log, f"luod held another registry, {instance}, beside {chosen}", place, refuses=True)
            rows = () if record is None or record.boot_id != boot_id() else record.rows
            others = replace(others, rows=others.rows + rows, doubts=(*others.doubts, doubt))
        memory.close()
        if instance != chosen:
            await fds.drop(REGISTRY + instance)
    return REGISTRY + chosen, others if others.doubts else None


def _adopt(fds: FdStore, registry: Registry, log: Log, others: Record) -> None:
    """Adds the doubts of other registries, and the sessions that the supervisor holds and only they know."""
    before = registry.record
    record = adopted(fds, before, log, others.rows)
    for row in record.rows[len(before.rows) :]:
        registry.add(row)
    if record.held != before.held:
        registry.set_held(record.held)
    registry.set_doubts(record.doubts + others.doubts)


async def _again(fds: FdStore, stored: str, file: Journal, log: Log) -> Registry:
    """Returns the registry of the previous serve. The supervisor holds its memory under the name `stored`.

    The memory counts also without luod's own session, which PID 1 may have lost alone, and which the supervisor cannot
    begin again while another process has the device open. The file may be behind the memory.
    """
    if protocol.OUTGOING + SESSION not in fds:
        await fds.create(SESSION, None)
    memory = Slots(fds[stored].duplicate())
    held = refuse_newer(understand(memory.read(), MEMORY))
    kept = read_file(file, held)
    if held.record is None:
        return await _doubtful(fds, stored, memory, (held, kept), file, log)
    doubts = aside(file, kept, log, refuses=False)
    source = believed(held, kept, boot_id(), "")
    record, number = source.record, source.number
    assert record is not None
    if source is kept:
        memory.forget()
        doubts += (doubted(log, BEHIND, refuses=False),)
    registry = Registry(record, memory, file, log, number=number)
    _preserve_again(fds[protocol.OUTGOING + SESSION], memory, log)
    await _store(fds, registry, memory, stored)
    if doubts:
        registry.set_doubts(record.doubts + doubts)
    else:
        registry.write_file()
    return registry


async def _doubtful(
    fds: FdStore, stored: str, memory: Slots, tell: tuple[Told, Told], file: Journal, log: Log
) -> Registry:
    """Returns a registry in place of one with damaged memory: from the file, if that is of the same registry, and with
    a row for each session that the supervisor holds and the file lacks. These are owned by root, and the incoming ones
    are torn.
    """
    held, kept = tell
    assert held.fault is not None
    place = await keep_memory(fds, memory, held.fault.kind, file, log)
    others: tuple[Doubt, ...] = ()
    old = believed(held, kept, boot_id(), stored.removeprefix(REGISTRY)).record
    if old is None:
        if kept.record is not None:
            kept = Told(fault=Fault("older", f"the registry's file {file.path} is of an older registry than {MEMORY}"))
        old, others = begun_record(1), aside(file, kept, log, refuses=True)
    what = held.fault.what + ("" if others or kept.record is None else "; its file was believed")
    doubts = (*old.doubts, doubted(log, what, place, refuses=kept.rest or bool(others)), *others)
    again = replace(old, format=FORMAT, instance=begun_record(1).instance, machine=machine_id(), doubts=doubts)
    record = adopted(fds, again, log)
    memory.clear()
    registry = Registry(record, memory, file, log)
    registry.set_doubts(record.doubts)
    await _store(fds, registry, memory, stored)
    return registry


async def _store(fds: FdStore, registry: Registry, memory: Slots, stored: str = "") -> None:
    """Has the supervisor hold the memory. The name contains the instance, which is known then even if the contents are
    damaged. `stored` is the name under which the supervisor has the memory already.
    """
    name = REGISTRY + registry.rest.instance
    if name != stored:
        await fds.store({name: memory.file})
        await fds.drop(stored)


async def _begin(fds: FdStore, file: Journal, log: Log) -> Registry:
    """Begins a registry, in a new session, after a kexec or a restart of the supervisor; its contents come from the old
    one.
    """
    old = protocol.INCOMING + SESSION
    if old not in fds:
        try:
            await fds.retrieve(SESSION)
        except NoSuchSession:
            log.debug("no-registry")
    if old in fds:
        record = await inherited(fds, fds[old], file, log)
    else:
        kept = read_file(file)
        doubts = aside(file, kept, log, refuses=kept.fault is not None and kept.fault.risk)
        record = recall(kept, log)
        record = replace(record, doubts=record.doubts + doubts)
    # PID 1 may have had sessions that this copy of the registry does not know.
    record = adopted(fds, record, log)
    session = fds.get(protocol.OUTGOING + SESSION) or await fds.create(SESSION, None)
    memory = Slots.new()
    registry = Registry(record, memory, file, log)
    registry.set_image(None)
    try:
        _preserve(session, memory)
    except TokenInUse:
        # Of an interrupted attempt: another memory is preserved in it.
        await fds.drop(protocol.OUTGOING + SESSION)
        _preserve(await fds.create(SESSION, None), memory)
    if old not in fds:
        await verify(fds, registry, log)
    else:
        # systemd's PID 1 has retrieved the sessions that were in its store at its own kexec, and gave them to luod.
        for row in registry.record.incoming:
            if row.state is IncomingState.WAITING and fd_name(row) in fds:
                registry.become(row, IncomingState.TAKEN)
    await _store(fds, registry, memory)
    log("begun", boot=record.boot, waiting=len(registry.record.rows))
    return registry


def _preserve_again(session: Fd, memory: Slots, log: Log) -> None:
    """Preserves the memory if the session does not have it, as one that began after PID 1 had lost the first alone."""
    try:
        _preserve(session, memory)
    except TokenInUse:
        return
    except LuodError as error:
        log.error("registry-session", error=error, meaning="the next kernel may have the registry's file only")
    else:
        log.warning("registry-preserved-again")


def _preserve(session: Fd, memory: Slots) -> None:
    with OutgoingSession(session.duplicate(), manifest=False) as outgoing:
        try:
            outgoing.preserve(memory, TOKEN, allow_sealed=True)
        except MemoryUnknown:
            # Without the registry every session would be lost.
            outgoing.preserve(memory, TOKEN, allow_sealed=True, check_memory=False)


async def _agree(fds: FdStore, registry: Registry, log: Log) -> None:
    """Drops the fds that the registry does not know: they belong to interrupted calls, which had no reply. Removes the
    stashed files from the registry that are lost.
    """
    held = tuple(_left(each, fds, log) for each in registry.rest.held)
    if held != registry.rest.held:
        registry.set_held(tuple(each for each in held if each.files))
    known = {protocol.OUTGOING + SESSION, protocol.INCOMING + SESSION}
    known |= {REGISTRY + registry.rest.instance, ASIDE, JUMP, DISK, HOOK, UNITS, INHIBITOR}
    known |= {held_name(file) for held in registry.rest.held for file in held.files}
    image = registry.rest.image
    if image is not None:
        known |= set(image_names(image))
        if not set(image_names(image)) <= set(fds):
            log.warning("image-lost", command_line=image.command_line)
            registry.set_image(None)
    for name in set(fds) - known:
        session = session_of(name)
        row = None if session is None else registry.row(*session)
        if row is None or (is_carried(name) and row.state is not IncomingState.CARRYING_OVER):
            log.debug("dropped", fd=name)
            await fds.drop(name)


def _left(held: Held, fds: FdStore, log: Log) -> Held:
    """Returns the set with the files that the supervisor still has."""
    left = tuple(file for file in held.files if held_name(file) in fds)
    if lost := [file.name for file in held.files if file not in left]:
        log.warning("files-lost", name=held.name, owner=held.owner, files=", ".join(lost), reason="luod ended")
    return replace(held, files=left)
