"""Whether what is held now comes over: sessions without a participant, memory, seals; and the watchdog.

Each function turns facts into findings, and reads nothing but memory and its limits.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

from luod import memory
from luod.daemon import memory_grants
from luod.daemon.preflight.facts import Declaration
from luod.daemon.preflight.findings import finding, listed
from luod.daemon.store.schema import Row
from luod.errors import NotEnoughMemory
from luod.ipc.types.admin import Finding
from luod.ipc.types.updates import DeclaredFile
from luod.uapi.memfd import F_SEAL_EXEC

_INIT: Final = 1
"""In its cgroup nobody is limited but by the machine."""


def stashed(names: Collection[str]) -> Iterator[Finding]:
    """`names` are those of the sets of files that luod holds for programs that are started again."""
    if names:
        yield finding(
            "files-held",
            f"luod holds files for programs that are being started again: {listed(names)}",
            "no kernel carries them on: they would be lost in the kexec",
            "have their owners take them back",
        )


def incoming(rows: Iterable[tuple[Row, str]]) -> Iterator[Finding]:
    """Sessions of the last update that are still there. `rows` come with their states."""
    # What a reaper could not finish must not keep the others from the next kernel.
    unfinished = [row.name for row, state in rows if row.direction == "incoming" and state != "stuck"]
    if unfinished:
        yield finding(
            "incoming-unfinished",
            f"incoming sessions are not finished, and no kernel carries them on: {listed(unfinished)}",
            "whatever they still hold is lost in the kexec",
            "have their owners finish them; luoctl carry-over preserves unclaimed sessions again, luoctl discard "
            "frees them",
        )


def unattended(names: Collection[str]) -> Iterator[Finding]:
    """`names` are those of sessions that were declared and have no participant now."""
    if names:
        yield finding(
            "nobody-follows",
            f"sessions were declared and have no participant now, so they would come back torn: {listed(names)}",
            "luod cannot tell whether what they hold fits together, and will not hand them out",
            "start their workloads, or release the sessions; --skip-unready gives them up",
        )


def undeclared(rows: Iterable[tuple[Row, str]]) -> Iterator[Finding]:
    """Outgoing sessions of which luod does not know what they hold. It knows what it forwarded itself."""
    outgoing = [row for row, _state in rows if row.direction == "outgoing"]
    names = [row.name for row in outgoing if not (row.judged or row.forwarded)]
    if names:
        yield finding(
            "contents-undeclared",
            f"no participant declared what these sessions hold: {listed(names)}",
            "luod knows neither whether the next kernel can take them over, nor whether their memory is at rest: what "
            "is written until the last moment is carried, and would look valid",
            "have their workloads follow and declare (docs/updates.md), or release the sessions",
        )


def seals(declarations: Iterable[Declaration]) -> Iterator[Finding]:
    sealed = {
        f"{session.name} ({file.name or file.token})"
        for declaration in declarations
        for session in declaration.sessions
        for file in session.files
        if file.kind == "memfd" and file.seals & F_SEAL_EXEC
    }
    if sealed:
        yield finding(
            "sealed-memory",
            f"memory files are sealed against execution (F_SEAL_EXEC): {listed(sealed)}",
            "the next kernel gives such a file every seal: nobody can write to it any more, so no guest can run on it",
            "make them with MFD_EXEC, or luod.liveupdate.memory(); vm.memfd_noexec=1 seals them too",
        )


def preserve(declarations: Iterable[Declaration], root: Path) -> Iterator[Finding]:
    """H2. Asked again before each grant, since memory comes and goes."""
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
            "preserving fills holes and moves pages out of the next kernel's memory; who has no room is killed by it",
            error.hint,
        )


def unknown(declarations: Iterable[Declaration], root: Path) -> Iterator[Finding]:
    """Participants whose memory limits luod cannot read. The other rules judge the limits that it can read."""
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
            f"luod cannot read how much memory these participants may take: {listed(names)} ({why})",
            "a PRESERVE_FD without memory kills its caller, and a RETRIEVE_FD without memory frees the file for good",
            "run luod where /proc shows these processes and the cgroup file system is mounted",
        )


def retrieve(declarations: Iterable[Declaration], root: Path) -> Iterator[Finding]:
    """H1. What is retrieved is charged to the limits of who retrieves it, as they will be in the next kernel: the same,
    with nothing used yet.
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
                f"what was declared takes {size} bytes to retrieve, and {name} is {limits[name].available} in all",
                "a retrieve that runs out of memory is final: the file is lost",
                "raise the limit, for the next kernel too",
            )


def watchdog(states: Sequence[str | None]) -> Iterator[Finding]:
    """`states` are those of the machine's watchdogs; None for one of which the kernel does not tell it."""
    if not any(state in ("active", None) for state in states):
        yield finding(
            "no-watchdog",
            "no watchdog is running" if states else "this machine has no watchdog",
            "if the next kernel hangs before it can do anything, nothing starts the machine again",
            "run a watchdog, such as systemd's RuntimeWatchdogSec= and KExecWatchdogSec=",
        )
