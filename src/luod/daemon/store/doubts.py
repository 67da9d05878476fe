"""Copies of the registry that luod does not use: they are logged, recorded, and kept; never overwritten.

A doubt is a sentence for the operator and the place of the bytes. `luod.daemon.store.copies` decides which copy is
used; this module acts on it.
"""

from __future__ import annotations

import errno
import os

from luod.daemon.store import state_file
from luod.daemon.store.copies import Told, of_this_machine, refuse_newer, understand_file
from luod.daemon.store.fd_names import ASIDE, fd_name
from luod.daemon.store.schema import Doubt, Held, HeldFile, IncomingRow, OutgoingRow, machine_id
from luod.daemon.store.states import IncomingState, OutgoingState
from luod.daemon.supervisor import protocol
from luod.frozen import replace
from luod.linux import boot_id, memfd
from luod.session_name import SessionName
from luod.static import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from luod.daemon.log import Log
    from luod.daemon.store.fd_store import FdStore
    from luod.daemon.store.journal import Slots
    from luod.daemon.store.journal_file import Journal
    from luod.daemon.store.schema import Record, Row

_LACKS: Final = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
_ROOT: Final = 0


def read_file(file: Journal, memory: Told | None = None) -> Told:
    """Returns the contents of the file, if it is of this machine. `memory`: the other copy. Raises WrittenByNewer.

    A log of this boot in the runtime directory is newer, and is returned in its place. If that cannot be decoded, the
    file may be behind.

    Raises OSError for a lack of files or memory, which says nothing about the file: the next serve tries again.
    """
    runtime = Told() if file.runtime is None else _read(file.runtime, memory)
    if runtime.record is not None and runtime.record.boot_id == boot_id():
        return runtime
    told = _read(file, memory)
    return told if runtime.fault is None else replace(told, rest=True)


def _read(file: Journal, memory: Told | None) -> Told:
    try:
        content: bytes | OSError | None = file.read()
    except OSError as error:
        if error.errno in _LACKS:
            raise
        content = error
    return of_this_machine(refuse_newer(understand_file(content, file.path, memory)), boot_id(), machine_id())


def doubted(log: Log, what: str, kept: str = "", *, refuses: bool) -> Doubt:
    """Logs and returns a doubt."""
    meaning = "updates are refused: there may be sessions that luod does not know" if refuses else "no session is lost"
    log.error("registry-doubt", what=what, kept=kept or "nowhere", meaning=meaning)
    return Doubt(what, kept, refuses)


def remedy(doubt: Doubt) -> str:
    """Returns the operator's remedy for a doubt."""
    if not doubt.refuses:
        return "no action is needed: the copy is kept for inspection" if doubt.kept else "no action is needed"
    return "compare `luoctl list` with the workloads; updates are refused without --ignore-finding registry-incomplete"


def aside(file: Journal, told: Told, log: Log, *, refuses: bool) -> tuple[Doubt, ...]:
    """Renames an unusable file. Returns the doubt; () without a fault."""
    if told.fault is None:
        return ()
    kept = file.path
    try:
        kept = file.keep_aside(told.fault.kind)
    except OSError as error:
        log.error("registry-file", path=file.path, error=f"it cannot be renamed: {error.strerror or error}")
    return (doubted(log, told.fault.what, kept, refuses=refuses),)


def adopted(fds: Iterable[str], record: Record, log: Log, others: Iterable[Row] = ()) -> Record:
    """Returns the record with a row for each session that the supervisor holds and it lacks, from `others` if it is
    there, and with the stashed files that the supervisor holds and it lacks, as a set of root's. With a doubt if there
    are any.

    To close them would end guests. It is for a registry that may be behind: in a current one they belong to calls that
    had no reply.
    """
    names, known = set(fds), {fd_name(row) for row in record.rows}
    rows = [row for row in others if fd_name(row) in names - known]
    rows += unknown(fds, (*record.rows, *rows))
    for row in rows:
        log.error("session-adopted", name=row.name, direction=row.direction, owner=row.owner)
    numbers = {file.number for held in record.held for file in held.files}
    files = tuple(HeldFile(number, f"{protocol.HELD}{number}") for number in sorted(_held(names) - numbers))
    held = (Held(_ROOT, f"unknown-{files[0].number}", files),) if files else ()
    for each in held:
        log.error("files-adopted", name=each.name, files=len(files), owner=each.owner)
    if not (rows or held):
        return record
    what = f"luod held what the registry lacks: sessions: {len(rows)}, stashed files: {len(files)}; it has them now"
    return replace(
        record,
        rows=(*record.rows, *rows),
        held=record.held + held,
        generation=max([record.generation, *(row.generation or 0 for row in rows)]),
        doubts=(*record.doubts, doubted(log, what, refuses=True)),
    )


def _held(names: Iterable[str]) -> set[int]:
    numbers = [name.removeprefix(protocol.HELD) for name in names if name.startswith(protocol.HELD)]
    return {int(number) for number in numbers if number.isdecimal()}


def unknown(fds: Iterable[str], rows: Iterable[Row]) -> Iterator[Row]:
    """Yields a row for each session that the supervisor holds and `rows` lacks. Root owns it, and an incoming one is
    torn.
    """
    known = {fd_name(row) for row in rows}
    for fd in fds:
        direction, _dot, name = fd.partition(".")
        if fd in known or name == protocol.REGISTRY_SESSION:
            continue
        if direction == "outgoing":
            session = SessionName.parse(name)
            yield OutgoingRow(session.base, _ROOT, session.generation, state=OutgoingState.DECLARED)
        elif direction == "incoming":
            session = SessionName.parse(name)
            yield IncomingRow(session.base, _ROOT, session.generation, state=IncomingState.TORN)


async def keep_memory(fds: FdStore, memory: Slots, kind: str, file: Journal, log: Log) -> str:
    """Keeps the bytes of an unusable memory, in a file or, if that fails, in a memfd of the supervisor. Returns their
    place.
    """
    contents = memory.contents()
    path = file.aside(f"memory-{kind}")
    try:
        state_file.replace(path, contents.rstrip(b"\0"))
        return path
    except OSError as error:
        log.error("registry-file", path=path, error=error.strerror or str(error))
    with memfd("luod-registry-aside", len(contents), executable=False) as copy:
        os.pwrite(copy.fileno(), contents, 0)
        await fds.store({ASIDE: copy})
    return f"luod, in its memory file {ASIDE}"
