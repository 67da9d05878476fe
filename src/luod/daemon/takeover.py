"""What a `serve` that starts finds: stored fds of the serve before it, or the registry of the kernel before.

After this the registry is current, preserved in luod's own outgoing session, and agrees with the fds keep holds. Every
step can be repeated: a serve killed in the middle is followed by one that begins here again. Called by
`luod.daemon.serve` before it answers anybody.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from msgspec.structs import replace

from luod.daemon import words
from luod.daemon.custody import Custody
from luod.daemon.journal import Journal, Slots
from luod.daemon.log import Log
from luod.daemon.record import FORMAT, HeldFile, Image, Record, Row, boot_id, fd_name, now
from luod.daemon.registry import Registry, read, replay
from luod.daemon.remains import arrived, owed, recall, timed, verify
from luod.errors import DeviceBroken, MemoryUnknown, NoSuchSession
from luod.linux import Fd
from luod.liveupdate import IncomingSession, OutgoingSession

SESSION: Final = "luod"
"""The session that carries the registry. Names that begin so are nobody else's."""
_TOKEN: Final = 0
_REGISTRY: Final = "registry"


@dataclass(frozen=True)
class Holdings:
    """What serve has after its start. Owns all of it; the fds' names are those of keep's copies."""

    registry: Registry
    fds: dict[str, Fd]
    broken: DeviceBroken | None = None
    """This kernel could not take over what was carried, and takes nothing on (H20)."""
    unclaimed: frozenset[str] = frozenset()
    """Incoming sessions that luod retrieved by itself."""

    def close(self) -> None:
        self.registry.close()
        for fd in self.fds.values():
            fd.close()


JUMP: Final = "jump"
"""The name under which keep holds a pidfd of the process that calls reboot(2), while it does."""

HOOK: Final = "hook"
"""The name under which keep holds a pidfd of the operator's hook, while one runs."""


def process_name(row: Row) -> str:
    """The name under which keep holds a pidfd of the process whose the session is, where that matters."""
    return f"{PROCESS}{fd_name(row)}"


PROCESS: Final = "process."


def worker_name(row: Row) -> str:
    """The name under which keep holds a pidfd of the process that works on the session for luod, while it does."""
    return f"worker.{fd_name(row)}"


def carried_name(row: Row, number: int) -> str:
    """The name under which keep holds files of a session that is forwarded, while they are preserved nowhere."""
    return f"carried.{number}.{row.name}"


def carried_names(fds: Iterable[str], row: Row) -> list[str]:
    """Those that are there, in their order."""
    found = [parts for name in fds if (parts := name.split(".", 2))[0] == "carried" and parts[2] == row.name]
    return [carried_name(row, number) for number in sorted(int(parts[1]) for parts in found)]


def manifest_name(row: Row) -> str:
    """The name under which keep holds the manifest that the maker of an outgoing session gave luod."""
    return f"manifest.{row.name}"


def held_name(file: HeldFile) -> str:
    """The name under which keep holds a file that was handed over."""
    return f"held.{file.number}"


def image_names(image: Image) -> tuple[str, ...]:
    """The names under which keep holds the files of a loaded image: the kernel, then the initrd if it has one."""
    return (f"kernel.{image.number}", f"initrd.{image.number}")[: 2 if image.initrd else 1]


async def take_over(custody: Custody, fds: dict[str, Fd], directory: Path, log: Log) -> Holdings:
    """Takes over `fds`, those keep had stored. KernelRefused, RegistryDamaged."""
    file = Journal(directory)
    broken = None
    unclaimed = frozenset[str]()
    if _REGISTRY in fds and words.OUTGOING + SESSION in fds:
        memory = Slots(fds.pop(_REGISTRY))
        record, number = read(memory, file, boot_id(), log)
        registry = Registry(record, memory, file, log, number=number)
        log.debug("serve-again", boot=registry.record.boot)
        if JUMP not in fds:
            # A serve that died in an update has cancelled it: nobody is frozen for it any more.
            registry.stay()
    else:
        # Stored without the registry, the outgoing session was cut off in its making.
        await custody.drop(fds, words.OUTGOING + SESSION)
        try:
            registry, unclaimed = await _begin(custody, fds, file, log)
        except DeviceBroken as error:
            registry, broken = _strand(file, log), error
    # Only now: until here the old registry could be read again (H11).
    if words.INCOMING + SESSION in fds:
        with IncomingSession(fds.pop(words.INCOMING + SESSION)) as old:
            old.finish(discard=True)
        await custody.remove(words.INCOMING + SESSION)
    await _agree(custody, fds, registry, log)
    return Holdings(registry, fds, broken, unclaimed)


async def _begin(custody: Custody, fds: dict[str, Fd], file: Journal, log: Log) -> tuple[Registry, frozenset[str]]:
    """Another kernel, or another keep: makes the registry anew from the old one, in a session of its own. With the
    sessions that had to be retrieved for that.
    """
    old = words.INCOMING + SESSION
    if old not in fds:
        try:
            fds[old] = await custody.retrieve(SESSION)
        except NoSuchSession:
            log.debug("no-registry")
    record = _carried(fds[old], file, log) if old in fds else recall(file, log)
    session = fds[words.OUTGOING + SESSION] = await custody.create(SESSION)
    memory = Slots.new()
    registry = Registry(record, memory, file, log)
    registry.set_image(None)
    with OutgoingSession(session.duplicate(), manifest=False) as outgoing:
        try:
            outgoing.preserve(memory, _TOKEN)
        except MemoryUnknown:
            # Without the registry no session is kept at all.
            outgoing.preserve(memory, _TOKEN, check_memory=False)
    unclaimed = frozenset[str]() if old in fds else await verify(custody, fds, registry, log)
    await custody.store(_REGISTRY, memory.fileno())
    log("begun", boot=record.boot, waiting=len(registry.record.rows))
    return registry, unclaimed


def _carried(session: Fd, file: Journal, log: Log) -> Record:
    """The registry that came along in the jump: what was outgoing is incoming now."""
    with IncomingSession(session.duplicate()) as incoming:
        memory = Slots(incoming.retrieve(_TOKEN))
    try:
        old, _number = read(memory, file, None, log)
    finally:
        memory.close()
    rows = []
    for held in old.held:
        log.warning("files-lost", name=held.name, owner=held.owner, reason="no kernel carries them on")
    for row in old.rows:
        if row.direction == "incoming":
            log.warning("session-lost", name=row.name, owner=row.owner, reason="not finished before the jump")
        else:
            rows.append(arrived(row, old.departure))
    torn = [row.name for row in rows if row.torn]
    departure = old.departure
    if departure is None:
        log.warning("arrived-without-luod", sessions=len(rows), torn=len(torn))
    else:
        departure = timed(departure)
        took = departure.crossing
        log(
            "arrived",
            update=departure.update,
            sessions=len(rows),
            torn=len(torn),
            jump_seconds="?" if took is None else f"{took.seconds:.3f}",
            give_or_take="?" if took is None else f"{took.error_seconds:.6f}",
            clock="?" if took is None else took.clock,
        )
    for name in torn:
        log.warning("session-torn", name=name, reason="its participant was not ready for the jump")
    return Record(
        FORMAT,
        old.boot + 1,
        boot_id(),
        tuple(rows),
        generation=old.generation,
        arrival=departure,
        arrived=now(),
        owed=owed(old, other_kernel=True),
    )


def _strand(file: Journal, log: Log) -> Registry:
    """This kernel answers EIO, so only the file tells what was carried into it. The registry is carried no further."""
    old, record = replay(file.read()), Record(FORMAT, 1, boot_id())
    if old is not None and old.boot_id == record.boot_id:
        rows = tuple(row for row in old.rows if row.direction == "incoming")
        record = Record(FORMAT, old.boot, old.boot_id, rows, generation=old.generation, arrival=old.arrival)
    elif old is not None:
        rows = tuple(arrived(row, old.departure) for row in old.rows if row.direction == "outgoing")
        departure = None if old.departure is None else timed(old.departure)
        record = Record(FORMAT, old.boot + 1, record.boot_id, rows, generation=old.generation, arrival=departure)
    record = replace(record, owed=owed(old, other_kernel=old is not None and old.boot_id != record.boot_id))
    for row in record.rows:
        log.error("session-lost", name=row.name, owner=row.owner, reason="this kernel could not take it over")
    registry = Registry(record, Slots.new(), file, log)
    registry.set_image(None)
    return registry


async def _agree(custody: Custody, fds: dict[str, Fd], registry: Registry, log: Log) -> None:
    """Drops the fds of which the registry does not know: of a call that was cut off, so nobody was told of them."""
    known = {words.OUTGOING + SESSION, _REGISTRY, JUMP, HOOK}
    known |= {fd_name(row) for row in registry.record.rows}
    known |= {process_name(row) for row in registry.record.rows} | {worker_name(row) for row in registry.record.rows}
    for row in registry.record.rows:
        if row.forwarding:
            known |= set(carried_names(fds, row))
    known |= {manifest_name(row) for row in registry.record.rows if row.direction == "outgoing"}
    known |= {held_name(file) for held in registry.record.held for file in held.files}
    image = registry.record.image
    if image is not None:
        known |= set(image_names(image))
        if not set(image_names(image)) <= set(fds):
            log.warning("image-lost", command_line=image.command_line)
            registry.set_image(None)
    for name in set(fds) - known:
        log.debug("dropped", fd=name)
        await custody.drop(fds, name)
