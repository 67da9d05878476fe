"""Whether what is held now comes over: sessions that nobody answers for, memory, seals; and this machine's watchdog."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

from luod import memory
from luod.daemon import grants
from luod.daemon.follower import Follower
from luod.daemon.preflight.findings import finding, listed
from luod.daemon.record import Row
from luod.errors import NotEnoughMemory
from luod.ipc.admin import Finding
from luod.ipc.updates import DeclaredFile
from luod.linux import F_SEAL_EXEC

_INIT: Final = 1
"""In its cgroup nobody is limited but by the machine."""


def judge(
    rows: Iterable[tuple[Row, str]],
    followers: Iterable[Follower],
    orphans: list[str],
    root: Path = Path("/"),
    *,
    held: Collection[str] = (),
) -> Iterator[Finding]:
    """Everything about it. `rows` come with their states; `orphans` are judged sessions that nobody follows for; `held`
    names what was handed over.
    """
    rows, followers = list(rows), list(followers)
    yield from sessions(rows, orphans, held)
    yield from _seals(followers)
    yield from _preserve(followers, root)
    yield from _retrieve(followers, root)
    yield from _watchdog(root)


def sessions(rows: Sequence[tuple[Row, str]], orphans: list[str], held: Collection[str]) -> Iterator[Finding]:
    """What takes no time to tell, and may have come about since an update was asked for."""
    if held:
        yield finding(
            "files-held",
            f"luod holds files for programs that are being started again: {listed(held)}",
            "no kernel carries them on: they would be lost in the jump",
            "have their owners take them back",
        )
    # What a reaper could not finish must not keep the others from the next kernel.
    incoming = [row.name for row, state in rows if row.direction == "incoming" and state != "stuck"]
    if incoming:
        yield finding(
            "incoming-unfinished",
            f"incoming sessions are not finished, and no kernel carries them on: {listed(incoming)}",
            "whatever they still hold is lost in the jump",
            "have their owners finish them; luoctl forward carries on what nobody claimed, luoctl reap frees it",
        )
    if orphans:
        yield finding(
            "nobody-follows",
            f"nobody follows for sessions that were declared, so they would come back torn: {listed(orphans)}",
            "luod cannot tell whether what they hold fits together, and will not hand them out",
            "start their workloads, or release the sessions; --force gives them up",
        )
    # What luod forwarded it knows, and nobody is there to declare it.
    outgoing = [row for row, _state in rows if row.direction == "outgoing"]
    undeclared = [row.name for row in outgoing if not (row.judged or row.forwarded)]
    if undeclared:
        yield finding(
            "contents-undeclared",
            f"nobody declared what these sessions hold: {listed(undeclared)}",
            "luod knows neither whether the next kernel can take them over, nor whether their memory is at rest: what "
            "is written until the last moment is carried, and would look valid",
            "have their workloads follow and declare (docs/updates.md), or release the sessions",
        )


def _seals(followers: list[Follower]) -> Iterator[Finding]:
    sealed = {
        f"{session.name} ({file.name or file.token})"
        for follower in followers
        for session in follower.sessions
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


def _preserve(followers: list[Follower], root: Path) -> Iterator[Finding]:
    """H2. Asked again before each grant, since memory comes and goes."""
    everything: list[DeclaredFile] = []
    try:
        for follower in followers:
            files = follower.files("preparing") + follower.files("freezing")
            grants.require(files, follower.peer.pid, follower.name, root)
            everything += files
        grants.require(everything, _INIT, "all participants together", root)
    except NotEnoughMemory as error:
        yield finding(
            "memory-preserve",
            error.message,
            "preserving fills holes and moves pages out of the next kernel's memory; who has no room is killed by it",
            error.hint,
        )


def _retrieve(followers: list[Follower], root: Path) -> Iterator[Finding]:
    """H1. What is retrieved is charged to the limits of who retrieves it, as they will be in the next kernel: the same,
    with nothing used yet.
    """
    charged: dict[str, int] = {}
    limits: dict[str, memory.Room] = {}
    for follower in followers:
        size = sum(file.size for session in follower.sessions for file in session.files if file.kind == "memfd")
        for room in memory.ceilings(root, follower.peer.pid):
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


def _watchdog(root: Path) -> Iterator[Finding]:
    devices = sorted((root / "sys/class/watchdog").glob("watchdog*"))
    states = [_text(device / "state") for device in devices]
    if not any(state in ("active", None) for state in states):
        yield finding(
            "no-watchdog",
            "no watchdog is running" if devices else "this machine has no watchdog",
            "if the next kernel hangs before it can do anything, nobody starts the machine again",
            "run a watchdog, such as systemd's RuntimeWatchdogSec= and KExecWatchdogSec=",
        )


def _text(path: Path) -> str | None:
    """None where it cannot be read: kernels without CONFIG_WATCHDOG_SYSFS do not tell."""
    try:
        return path.read_text(encoding="ascii").strip()
    except OSError:
        return None
