"""Findings on the current state: sessions without a participant, memory, seals, and the watchdog.

Each function turns facts into findings. The only things read here are memory and its limits.
"""

from __future__ import annotations

from luod import memory
from luod.daemon import memory_grants
from luod.daemon.preflight.facts import is_undeclared
from luod.daemon.preflight.findings import finding, listed
from luod.daemon.store.schema import IncomingRow, OutgoingRow, Row
from luod.errors import NotEnoughMemory
from luod.static import TYPE_CHECKING, Final
from luod.uapi.memfd import F_SEAL_EXEC

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence
    from pathlib import Path

    from luod.daemon.preflight.facts import Declaration
    from luod.daemon.preflight.manifests import Listed
    from luod.ipc.types.admin import Finding
    from luod.ipc.types.updates import DeclaredFile

_INIT: Final = 1
"""A process in the root cgroup is limited only by the machine's memory."""


def stashed(names: Collection[str]) -> Iterator[Finding]:
    """Yields the finding of stashed files. `names` are those of the stashes."""
    if names:
        yield finding(
            "files-held",
            f"luod holds stashed files: {listed(names)}",
            "they are lost in the kexec",
            "let their owners unstash them",
        )


def incoming(rows: Iterable[tuple[Row, str]]) -> Iterator[Finding]:
    """Yields the finding of unfinished sessions of the last update. `rows` come with their states."""
    # A stuck session must not block the update of the others.
    unfinished = [row.name for row, state in rows if isinstance(row, IncomingRow) and state != "stuck"]
    if unfinished:
        yield finding(
            "incoming-unfinished",
            f"incoming sessions are not finished: {listed(unfinished)}",
            "they are lost in the kexec",
            "let their owners finish them, or run `luoctl carry-over` to preserve them again or `luoctl discard` to "
            "free them",
        )


def unattended(names: Collection[str]) -> Iterator[Finding]:
    """Yields the finding of declared sessions without a participant. `names` are theirs."""
    if names:
        yield finding(
            "participant-missing",
            f"declared sessions have no participant: {listed(names)}",
            "their state may be inconsistent, so they would be torn and could not be restored",
            "start their workloads, release the sessions, or use --skip-unready, which makes them torn",
        )


def undeclared(rows: Iterable[tuple[Row, str]], manifests: Iterable[Listed]) -> Iterator[Finding]:
    """Yields the finding of outgoing sessions without a declaration. Those that luod carried over are known."""
    names = [row.name for row, _state in rows if isinstance(row, OutgoingRow) and is_undeclared(row)]
    unknown = set(names) - {each.session for each in manifests if each.complete}
    if names:
        yield finding(
            "contents-undeclared",
            f"sessions without a participant: contents not declared: {listed(names)}",
            "their memory may change until the kexec, which makes it inconsistent"
            + (
                f"; luod does not know all files of {listed(unknown)}, and one file without a handler in the next "
                "kernel loses every session of this machine"
                if unknown
                else ""
            ),
            "let their workloads take part in updates (docs/updates.md), or release the sessions",
        )


def seals(files: Iterable[tuple[str, DeclaredFile]]) -> Iterator[Finding]:
    """Yields the finding of sealed memory. `files` come with the names of their sessions."""
    sealed = {
        f"{session} ({file.name or file.token})"
        for session, file in files
        if file.kind == "memfd" and file.seals & F_SEAL_EXEC
    }
    if sealed:
        yield finding(
            "sealed-memory",
            f"memory files are sealed against execution (F_SEAL_EXEC): {listed(sealed)}",
            "the next kernel adds all seals to such a file: it becomes read-only, and no guest can run on it",
            "create them with MFD_EXEC or luod.liveupdate.memory(); vm.memfd_noexec=1 seals them too",
        )


def preserve(declarations: Iterable[Declaration], root: Path) -> Iterator[Finding]:
    """Yields the finding of too little memory to preserve (H2). It is checked again before each grant."""
    everything: list[DeclaredFile] = []
    try:
        for declaration in declarations:
            files = declaration.files("preparing") + declaration.files("freezing")
            memory_grants.require(files, declaration.process, declaration.name, root)
            everything += files
        memory_grants.require(everything, _INIT, "all participants together", root)
    except NotEnoughMemory as error:
        yield finding(
            "memory-preserve",
            error.message,
            "preserving allocates memory for holes and for pages in scratch memory; a process without it is killed",
            error.hint,
        )


def unknown(declarations: Iterable[Declaration], root: Path) -> Iterator[Finding]:
    """Yields findings of participants with memory limits that luod cannot read."""
    whys: dict[str, list[str]] = {}
    for declaration in declarations:
        if not any(file.size for session in declaration.sessions for file in session.files):
            continue
        left = memory_grants.UNSEEN if declaration.process is None else memory.free(root, declaration.process)
        if isinstance(left, memory.Unknown):
            whys.setdefault(left.why, []).append(declaration.name)
    for why, names in whys.items():
        yield finding(
            "memory-unknown",
            f"luod cannot read the memory limits of these participants: {listed(names)} ({why})",
            "a PRESERVE_FD without memory kills its caller, and a RETRIEVE_FD without memory frees the file for good",
            "run luod where /proc shows these processes and where the cgroup file system is mounted",
        )


def retrieve(declarations: Iterable[Declaration], root: Path) -> Iterator[Finding]:
    """Yields findings of too little memory to retrieve (H1). Retrieved memory is charged to the limits of the process
    that retrieves it, which are assumed to be the same in the next kernel, with nothing used yet.
    """
    charged: dict[str, int] = {}
    limits: dict[str, memory.Room] = {}
    for declaration in declarations:
        size = sum(file.size for session in declaration.sessions for file in session.files if file.kind == "memfd")
        found, _why = ([], "") if declaration.process is None else memory.ceilings(root, declaration.process)
        for room in found:
            charged[room.limit] = charged.get(room.limit, 0) + size
            limits[room.limit] = room
    for name, size in charged.items():
        if size > limits[name].available:
            yield finding(
                "memory-retrieve",
                f"retrieving the declared files takes {size} bytes, and {name} is {limits[name].available} in all",
                "a RETRIEVE_FD that runs out of memory loses the file",
                "raise the limit, also for the next kernel",
            )


def watchdog(states: Sequence[str | None]) -> Iterator[Finding]:
    """Yields the finding of a missing watchdog. `states` are those of all watchdogs, None for an unknown one."""
    if not any(state in ("active", None) for state in states):
        yield finding(
            "no-watchdog",
            "no watchdog is running" if states else "this machine has no watchdog",
            "if the next kernel hangs early, nothing resets the machine",
            "run a watchdog, such as systemd's RuntimeWatchdogSec= and KExecWatchdogSec=",
        )
