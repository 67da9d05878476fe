"""The contents of each copy of the registry, and the choice between the two. Pure.

An unusable copy has a fault, which is a sentence for the operator. The order of two records is: boot, then instance,
then number. A number counts within one instance only, so a file of another instance is never newer.
"""

from __future__ import annotations

from luod.daemon.store.entries import Meaningless, OtherFormat, key, read_changes, read_whole
from luod.daemon.store.journal import Log, unpack
from luod.daemon.store.schema import FORMAT, OLDEST_FORMAT, Record
from luod.errors import Refused
from luod.frozen import frozen, replace
from luod.static import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

    Kind = Literal["damaged", "format", "newer-format", "unreadable", "another-machine", "another-boot", "older"]


@frozen
class Fault:
    """The reason for which a copy is unusable. `kind` is part of the name under which a file is kept aside. `risk`: it
    may have known sessions that still exist.
    """

    kind: Kind
    what: str
    risk: bool = True


@frozen
class Told:
    """The contents of one copy: a record and the number of its last entry, or a fault, or nothing without a copy.

    `rest`: the log continues with bytes that are not an entry, so it may be behind.
    """

    record: Record | None = None
    number: int = 0
    fault: Fault | None = None
    rest: bool = False
    entries: tuple[bytes, ...] = ()
    """The bodies of the entries in its log."""


def understand(log: Log | None, copy: str, other: Told | None = None) -> Told:
    """Returns the contents of a log.

    `copy` names it in a fault; None is a log that does not begin with a whole record. `other`: the other copy. Usually
    both have the same entries, and then they are decoded once.
    """
    if log is None:
        return Told(fault=Fault("damaged", f"{copy} is damaged: no whole record begins it"))
    entries = (log.whole, *log.changes)
    if other is not None and other.entries == entries:
        return Told(other.record, log.number, rest=log.rest, entries=entries)
    try:
        record = read_whole(log.whole)
        if log.changes:
            rows = {key(row): row for row in record.rows}
            for body in log.changes:
                for each, row in read_changes(body).items():
                    if row is None:
                        rows.pop(each, None)
                    else:
                        rows[each] = row
            record = replace(record, rows=tuple(rows.values()))
    except OtherFormat as other:
        newer = other.number > FORMAT
        writer = f"luod {other.writer}" if other.writer else f"{'a newer' if newer else 'an older'} luod"
        what = (
            f"{copy} has format {other.number}, which {writer} wrote; this luod reads the formats"
            f" {OLDEST_FORMAT} to {FORMAT}"
        )
        return Told(fault=Fault("newer-format" if newer else "format", what))
    except Meaningless as error:
        return Told(fault=Fault("damaged", f"{copy} is damaged: an entry has a good checksum and no meaning: {error}"))
    return Told(record, log.number, rest=log.rest, entries=entries)


class WrittenByNewer(Refused):
    """The registry is of a newer luod, which knows of sessions and files that this one does not."""


def refuse_newer(told: Told) -> Told:
    """Returns `told`. Raises WrittenByNewer, before anything is changed, if it is of a newer format."""
    if told.fault is not None and told.fault.kind == "newer-format":
        raise WrittenByNewer(
            f"luod does not start with the state of a newer luod: {told.fault.what}",
            hint="install that version or a later one and restart luod; nothing was changed, and every session is held",
        )
    return told


def understand_file(content: bytes | OSError | None, path: str, memory: Told | None = None) -> Told:
    """Returns the contents of the file, or of the error with which it was read. `memory`: the other copy."""
    if content is None:
        return Told()
    copy = f"the registry's file {path}"
    if isinstance(content, OSError):
        return Told(fault=Fault("unreadable", f"{copy} cannot be read: {content.strerror or content}"))
    return understand(unpack(content), copy, memory)


def of_this_machine(told: Told, boot: str, machine: str) -> Told:
    """Returns `told`, or a fault if it is of another machine. A boot id is of one machine."""
    record = told.record
    if record is None or record.boot_id == boot or not (record.machine and machine) or record.machine == machine:
        return told
    what = f"the registry's file is of another machine (machine-id {record.machine}, this one is {machine})"
    return Told(fault=Fault("another-machine", what, risk=record.departure is not None))


def newer(held: Told, kept: Told) -> bool:
    """Returns whether the file, `kept`, is newer than the memory, `held`, of the same registry.

    The memory's last entries are damaged then.
    """
    here, there = held.record, kept.record
    return (
        here is not None
        and there is not None
        and here.boot_id == there.boot_id
        and here.instance == there.instance
        and kept.number > held.number
    )


def replaces(kept: Told, boot: str, instance: str) -> bool:
    """Returns whether the file replaces a memory that cannot be decoded, of the registry `instance` of this boot.

    "" if the instance is not known.
    """
    there = kept.record
    return there is not None and there.boot_id == boot and (not instance or there.instance == instance)


def current(memories: Mapping[str, Told], kept: Told, boot: str) -> str:
    """Returns the one of several memories of the kernel `boot` to use, each under the instance in its fd's name, beside
    the file `kept`.

    One of another instance than its name was begun again and its new name is there too, or is about to be. The newest
    instance has written the file.
    """

    def order(named: str) -> tuple[bool, bool, bool, bool, int]:
        told = memories[named]
        if told.record is None:
            return False, False, False, False, 0
        here = told.record
        of_file = kept.record is not None and kept.record.instance == here.instance
        return True, here.boot_id == boot, of_file, here.instance == named, told.number

    return max(memories, key=order)


def believed(held: Told, kept: Told, boot: str, instance: str) -> Told:
    """Returns the copy to use in the kernel `boot`, of the memory `held` and the file `kept`; an unusable one if both
    are.

    `instance`: of the memory, from the name under which the supervisor holds it, "" without one.
    """
    if held.record is not None:
        return kept if newer(held, kept) else held
    return kept if replaces(kept, boot, instance) else Told()
