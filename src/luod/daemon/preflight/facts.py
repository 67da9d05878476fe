"""The facts that findings depend on, as observed at one moment. A fact's version is its value.

Two observations of a fact that compare equal are the same version. A file is compared by device, inode, size and times.
Two observations of `Memory` are never equal, since any process may allocate memory at any moment.

Only data: `luod.daemon.preflight.check` observes the facts, `luod.daemon.preflight.rules` turns them into findings.
"""

from __future__ import annotations

from luod.daemon.preflight.next_kernel import NextKernel
from luod.daemon.store.schema import Doubt, OutgoingRow, Row
from luod.daemon.store.states import OutgoingState
from luod.daemon.systemd.manager import NOT_BOOTED, Manager
from luod.frozen import frozen
from luod.image.command_line import line
from luod.ipc.types.updates import DeclaredFile
from luod.kexec import LoadLimits
from luod.static import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator
    from pathlib import Path

    from luod import image
    from luod.daemon.preflight.devices import Devices
    from luod.daemon.preflight.manifests import Listed
    from luod.daemon.preflight.running import Running
    from luod.daemon.preflight.subject import Fingerprint
    from luod.image.initrd import Modules
    from luod.ipc.types.admin import Problem
    from luod.ipc.types.phases import Way
    from luod.ipc.types.sessions import SessionState
    from luod.ipc.types.updates import DeclaredSession, When
    from luod.manifest import Entry

    FactName = Literal[
        "kernel",
        "initrd",
        "command_line",
        "running",
        "loading",
        "sessions",
        "declarations",
        "stashed",
        "memory",
        "devices",
        "host",
        "manifests",
        "storage",
        "way",
        "manager",
    ]


def _same_file(one: KernelFile | InitrdFile, other: object) -> bool:
    """Compares the versions of two files."""
    return type(other) is type(one) and one.fingerprint == other.fingerprint


@frozen
class KernelFile:
    """The next kernel's image. `content` is None if the file cannot be read, for the reason `unreadable`."""

    fingerprint: Fingerprint
    content: image.Kernel | None = None
    unreadable: tuple[str, str] = ("", "")
    """The problem and its remedy."""

    __eq__ = _same_file


@frozen
class InitrdFile:
    """The initial RAM disk; `size` is in bytes. `content` is None if no kernel can use the disk (`unusable`) or luod
    cannot read it (`unreadable`). Each of these is a problem and its remedy.
    """

    fingerprint: Fingerprint
    size: int
    content: Modules | None = None
    boot_config: tuple[str, str] | None = None
    """The parameters for the kernel and for init in the boot configuration at its end."""
    unusable: tuple[str, str] = ("", "")
    unreadable: tuple[str, str] = ("", "")

    __eq__ = _same_file


@frozen
class Declaration:
    """The declaration of one participant. `process` is its pid in luod's /proc; None if it is not visible there.
    `unit` is its systemd unit, None if it is unknown or of no interest.

    Both are no part of the version: the rules that use the first depend on memory, which has another version each time,
    and the second is used once.
    """

    name: str
    process: int | None
    sessions: tuple[DeclaredSession, ...]
    unit: str | None = None

    def __eq__(self, other: object) -> bool:
        return type(other) is Declaration and (self.name, self.sessions) == (other.name, other.sessions)

    def files(self, when: When) -> list[DeclaredFile]:
        return [file for session in self.sessions for file in session.files if file.when == when]


@frozen
class Loading:
    """The running kernel's limits on loading images. `loads` is the number of loads still needed before the kexec."""

    limits: LoadLimits = LoadLimits()
    loads: int = 0


@frozen
class Memory:
    """The machine's memory and the limits on it; /proc and /sys are below `root`."""

    root: Path
    __eq__, __hash__ = object.__eq__, object.__hash__


@frozen
class Host:
    """Other facts of the running machine. `watchdogs`: the state of each, None if the kernel does not report it."""

    watchdogs: tuple[str | None, ...] = ()


@frozen
class Storage:
    """The storage of the registry. `problems` of the state directory are from the last look at it, which may block on
    the disk. `file_error`: why the last write failed. `doubts` are the registry's.
    """

    problems: tuple[Problem, ...] = ()
    file_error: str = ""
    doubts: tuple[Doubt, ...] = ()


@frozen
class Facts:
    """Every fact, each in a field with its name."""

    kernel: KernelFile
    initrd: InitrdFile | None
    command_line: str
    running: Running
    loading: Loading
    sessions: tuple[tuple[Row, SessionState], ...]
    declarations: tuple[Declaration, ...]
    stashed: tuple[str, ...]
    """Names of the stashes: sets of files that luod holds for programs that restart."""
    memory: Memory
    devices: Devices
    host: Host
    manifests: tuple[Listed, ...] = ()
    """The files of sessions without a declaration, where a manifest lists them."""
    storage: Storage = Storage()
    way: Way = "direct"
    manager: Manager = NOT_BOOTED
    """systemd, as it answered when the update was requested."""

    def version(self, name: FactName) -> object:
        return getattr(self, name)


def next_kernel(facts: Facts) -> NextKernel | None:
    """Returns the properties of the next kernel that the rules judge; None if its image cannot be read."""
    if facts.kernel.content is None:
        return None
    kernel, disk = facts.kernel.content, facts.initrd
    if disk is None:
        return NextKernel(kernel, line(facts.command_line, kernel.contents.options))
    whole = line(facts.command_line, kernel.contents.options, disk.boot_config)
    return NextKernel(kernel, whole, disk.size, disk.content)


def kinds(facts: Facts) -> set[str]:
    """Returns the kinds of the preserved files, as declared by participants. A session without a participant counts
    with its last declaration, or with its manifest.
    """
    return {file.kind for _name, file in files(facts)} | {kind for row, _state in facts.sessions for kind in row.kinds}


def files(facts: Facts) -> Iterator[tuple[str, DeclaredFile]]:
    """Yields the files that are declared by participants or listed in manifests, with the names of their sessions."""
    for declaration in facts.declarations:
        for session in declaration.sessions:
            yield from ((session.name, file) for file in session.files)
    for listed in facts.manifests:
        yield from ((listed.session, as_declared(file)) for file in listed.files)


def as_declared(file: Entry) -> DeclaredFile:
    """Returns a file of a manifest, which is preserved, as a participant would declare it."""
    return DeclaredFile(
        file.token, file.name, file.kind, file.size, file.allocated, file.seals, "preserved", file.device
    )


def is_undeclared(row: OutgoingRow) -> bool:
    """Returns whether no participant has declared the files of the session."""
    return row.state is OutgoingState.UNDECLARED


def unattended(facts: Facts) -> list[str]:
    """Returns the declared sessions without a participant now: a kexec would tear them."""
    declared = {session.name for declaration in facts.declarations for session in declaration.sessions}
    rows = (row for row, _state in facts.sessions if isinstance(row, OutgoingRow))
    return sorted(row.name for row in rows if row.declared and row.generation is None and row.name not in declared)


def unanswered(
    sessions: Iterable[tuple[Row, SessionState]], declarations: Iterable[Declaration], among: Collection[str]
) -> bool:
    """Returns whether an outgoing session without a participant holds files of the kinds `among`, or files that were
    never declared.
    """
    declared = {session.name for declaration in declarations for session in declaration.sessions}
    rows = (row for row, _state in sessions if isinstance(row, OutgoingRow) and row.name not in declared)
    return any(any(kind in among for kind in row.kinds) or is_undeclared(row) for row in rows)
