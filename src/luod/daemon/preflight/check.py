"""Preflight: observes the facts about the next kernel and the held sessions, and applies the rules to them.

`check` reads the next kernel's files, which takes seconds, in a thread; results are kept by the files' fingerprints.
`certain` reads no content of files on a disk and returns in the same turn of the loop, so that an update can continue
before any fact changes again.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from luod.daemon.completion import completed
from luod.daemon.policy import membership
from luod.daemon.preflight import devices, rules
from luod.daemon.preflight.devices import Devices
from luod.daemon.preflight.facts import (
    Declaration,
    Facts,
    Host,
    InitrdFile,
    KernelFile,
    Loading,
    Memory,
    Storage,
    as_declared,
    is_undeclared,
    unanswered,
)
from luod.daemon.preflight.manifests import ManifestReader
from luod.daemon.preflight.reading import Reader
from luod.daemon.preflight.rules import judge
from luod.daemon.store import state_directory
from luod.daemon.store.schema import OutgoingRow
from luod.daemon.systemd import manager
from luod.errors import Refused
from luod.frozen import frozen, replace
from luod.kexec import load_limits
from luod.static import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence, Sized

    from luod.daemon.preflight.rules import Judgement, Moment
    from luod.daemon.preflight.subject import Subject
    from luod.daemon.store.registry import Registry
    from luod.daemon.store.schema import Row
    from luod.ipc.server.peer import Peer
    from luod.ipc.types.admin import Finding
    from luod.ipc.types.phases import Way
    from luod.ipc.types.sessions import SessionState
    from luod.ipc.types.updates import DeclaredSession, When

    class Sessions(Protocol):
        """The sessions and files that luod holds."""

        @property
        def held(self) -> tuple[str, ...]: ...
        def rows(self) -> list[tuple[Row, SessionState]]: ...
        @property
        def manifests(self) -> Manifests: ...

    class Manifests(Protocol):
        """The manifests that the makers of sessions gave to luod."""

        def read(self, row: Row) -> bytes | None: ...

    class Follower(Protocol):
        """A process that follows updates, and the sessions that it declared."""

        @property
        def name(self) -> str: ...
        @property
        def peer(self) -> Peer: ...
        @property
        def sessions(self) -> tuple[DeclaredSession, ...]: ...

    class Participants(Protocol):
        """The processes that follow updates."""

        @property
        def followers(self) -> Sequence[Follower]: ...


_ROOT: Final = Path("/")
_PRESERVED: Final[Mapping[Moment, tuple[When, ...]]] = {
    "request": ("preserved",),
    "freezing": ("preserved", "preparing"),
    "jumping": ("preserved", "preparing", "freezing"),
}
"""By moment, the declarations of files that are preserved by then: every vote of the earlier phases is in."""


@frozen
class Checked:
    """The result of a check. `release` is the next kernel's, None if it cannot be read. `current`: it is the running
    kernel, by its build id, with the running kernel's command line.
    """

    findings: list[Finding]
    release: str | None
    current: bool


class Preflight:
    """Made inside a running loop."""

    def __init__(self, sessions: Sessions, participants: Participants, registry: Registry, fds: Sized) -> None:
        """`fds` are those that luod has given to the store of its unit."""
        self._fds = fds
        self._registry = registry
        self._sessions = sessions
        self._participants = participants
        self._reader = Reader()
        self._manifests = ManifestReader()
        self._lock = asyncio.Lock()
        self._remembered: Judgement | None = None

    async def check(self, subject: Subject, way: Way, *, remember: bool = False) -> Checked:
        """Returns the findings about an update into `subject`. `remember` keeps them for `certain`."""
        return await completed(self._check(subject.duplicate(), way, remember))

    async def _check(self, subject: Subject, way: Way, remember: bool) -> Checked:
        try:
            async with self._lock:
                read = await asyncio.to_thread(self._reader.read, subject)
                await asyncio.to_thread(self._manifests.read, self._undeclared(self._sessions.rows()))
                problems = await asyncio.to_thread(
                    state_directory.problems, self._registry.file, self._registry.file_error
                )
                held = len(self._fds)
                found = await asyncio.to_thread(manager.observe)
                found = replace(found, held=min(held, len(self._fds)))
                known = Facts(
                    kernel=read.kernel,
                    initrd=read.initrd,
                    command_line=subject.command_line,
                    running=read.running,
                    loading=Loading(),
                    sessions=(),
                    declarations=(),
                    stashed=(),
                    memory=Memory(_ROOT),
                    devices=Devices(),
                    host=Host(),
                    manifests=(),
                    storage=Storage(tuple(problems)),
                    way=way,
                    manager=found,
                )
                facts = self._observe(known, subject.loads, "request")
                judgement = await asyncio.to_thread(judge, facts)
                if remember:
                    self._remembered = judgement
        finally:
            subject.close()
        content = read.kernel.content
        return Checked(
            judgement.findings, None if content is None else content.contents.release, is_current(judgement.facts)
        )

    async def quiet(self) -> None:
        """Returns when no check reads files, which takes processor time."""
        async with self._lock:
            pass

    def certain(self, subject: Subject, moment: Moment) -> list[Finding]:
        """Returns the findings for the remembered files, from the facts at this moment of an update.

        Raises Refused: a file of `subject` has changed since it was read.
        """
        remembered = self._remembered
        assert remembered is not None, "an update begins with a check"
        read = [file.fingerprint for file in _files(remembered.facts)]
        if list(subject.fingerprint()) != read:
            raise Refused(
                "the image or the initial RAM disk was modified after the check",
                hint="run `luoctl load` again",
            )
        return remembered.again(self._observe(remembered.facts, subject.loads, moment), moment).findings

    def _observe(self, facts: Facts, loads: int, moment: Moment) -> Facts:
        """Returns the present facts, with the files and the running kernel of `facts`, and with everything else of
        `facts` that no rule depends on any more at this moment. Runs in the loop, without a wait.

        `loads` is the number of loads until the kexec.
        """
        needed = rules.needed(moment)
        followers = self._participants.followers
        files = [file for each in followers for session in each.sessions for file in session.files]
        rows = tuple(self._sessions.rows())
        listed = self._manifests.read(self._undeclared(rows))
        # Finding a process takes longer than everything else here together.
        limited, stoppable = "memory" in needed, "way" in needed and facts.way == "systemd"
        declarations = tuple(
            Declaration(
                each.name,
                each.peer.process if limited else None,
                each.sessions,
                membership.of(each.peer).unit if stoppable else None,
            )
            for each in followers
        )
        held = devices.observe(
            [*files, *(as_declared(file) for each in listed for file in each.files)],
            _ROOT,
            preserved=_PRESERVED[moment],
            undeclared=unanswered(rows, declarations, devices.KINDS),
        )
        return replace(
            facts,
            loading=Loading(load_limits(), loads) if "loading" in needed else facts.loading,
            sessions=rows,
            declarations=declarations,
            stashed=self._sessions.held,
            memory=Memory(_ROOT),
            devices=held,
            host=host(_ROOT) if "host" in needed else facts.host,
            manifests=listed,
            storage=replace(facts.storage, file_error=self._registry.file_error, doubts=self._registry.rest.doubts),
        )

    def _undeclared(self, rows: Iterable[tuple[Row, SessionState]]) -> dict[str, bytes]:
        """Returns the manifests of the sessions without a declaration, by name."""
        undeclared = [row for row, _state in rows if isinstance(row, OutgoingRow) and is_undeclared(row)]
        read = {row.name: self._sessions.manifests.read(row) for row in undeclared}
        return {name: data for name, data in read.items() if data is not None}


def is_current(facts: Facts) -> bool:
    """Returns whether an update into the kernel of `facts` would start the running kernel again."""
    content = facts.kernel.content
    same = content is not None and facts.running.build_id in content.contents.build_ids
    return same and facts.command_line == facts.running.command_line


def host(root: Path) -> Host:
    """Returns the facts of the running machine; /sys is below `root`."""
    devices = sorted((root / "sys/class/watchdog").glob("watchdog*"))
    return Host(tuple(_text(device / "state") for device in devices))


def _text(path: Path) -> str | None:
    """Returns the text; None if it cannot be read: kernels without CONFIG_WATCHDOG_SYSFS lack such a file."""
    try:
        return path.read_text(encoding="ascii").strip()
    except OSError:
        return None


def _files(facts: Facts) -> list[KernelFile | InitrdFile]:
    return [facts.kernel] if facts.initrd is None else [facts.kernel, facts.initrd]
