"""The facts that findings depend on, as observed at one moment. A fact's version is its value.

Two observations of a fact that compare equal are one version of it. What is too large to compare is represented by what
identifies it: a file by device, inode, size and times. `Memory` has no version that lasts, since any process may take
memory at any moment: two observations of it are never equal.

Only data. The rules that turn facts into findings are `luod.daemon.preflight.rules`; `luod.daemon.preflight.check`
observes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from luod import image
from luod.daemon.preflight.devices import Devices
from luod.daemon.preflight.next_kernel import NextKernel
from luod.daemon.preflight.running import Running
from luod.daemon.preflight.subject import Fingerprint
from luod.daemon.store.schema import Doubt, OutgoingRow, Row
from luod.daemon.store.states import OutgoingState
from luod.image.command_line import line
from luod.image.initrd import Modules
from luod.ipc.types.admin import Problem
from luod.ipc.types.sessions import SessionState
from luod.ipc.types.updates import DeclaredFile, DeclaredSession, When
from luod.kexec import LoadLimits

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
    "storage",
]


@dataclass(frozen=True)
class KernelFile:
    """The next kernel's image. `content` is None where the file cannot be read, for the reason `unreadable`."""

    fingerprint: Fingerprint
    content: image.Kernel | None = field(default=None, compare=False)
    unreadable: tuple[str, str] = field(default=("", ""), compare=False)
    """What is wrong, and what to do."""


@dataclass(frozen=True)
class InitrdFile:
    """The initial RAM disk. `size` in bytes; `content`: what the next kernel loads from it. Without any either no
    kernel can use it (`unusable`), or luod cannot look into it (`unreadable`): what is wrong, and what to do.
    """

    fingerprint: Fingerprint
    size: int
    content: Modules | None = field(default=None, compare=False)
    boot_config: tuple[str, str] | None = field(default=None, compare=False)
    """The parameters for the kernel and for init that are in a boot configuration behind it."""
    unusable: tuple[str, str] = field(default=("", ""), compare=False)
    unreadable: tuple[str, str] = field(default=("", ""), compare=False)


@dataclass(frozen=True)
class Declaration:
    """What one participant has declared. `process` is its pid in luod's /proc; None: it cannot be seen there."""

    name: str
    process: int | None
    sessions: tuple[DeclaredSession, ...]

    def files(self, when: When) -> list[DeclaredFile]:
        return [file for session in self.sessions for file in session.files if file.when == when]


@dataclass(frozen=True)
class Loading:
    """What the running kernel allows of loading images. `loads` are still to be made until the jump."""

    limits: LoadLimits = field(default_factory=LoadLimits)
    loads: int = 0


@dataclass(frozen=True, eq=False)
class Memory:
    """The machine's memory and the limits on it; /proc and /sys are below `root`."""

    root: Path


@dataclass(frozen=True)
class Host:
    """What else the running machine is like. `watchdogs`: the state of each, None where the kernel does not say."""

    watchdogs: tuple[str | None, ...] = ()


@dataclass(frozen=True)
class Storage:
    """What luod writes its registry to. `problems` of the state directory are as they were when it was looked at last,
    which may wait for a disk. `file_error`: why the last write failed. `doubts` are the registry's.
    """

    problems: tuple[Problem, ...] = ()
    file_error: str = ""
    doubts: tuple[Doubt, ...] = ()


@dataclass(frozen=True)
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
    """Names of the sets of files that luod holds for programs that are started again."""
    memory: Memory
    devices: Devices
    host: Host
    storage: Storage = field(default_factory=Storage)

    def version(self, name: FactName) -> object:
        return getattr(self, name)


def next_kernel(facts: Facts) -> NextKernel | None:
    """What the next kernel is judged by; None where its image cannot be read."""
    if facts.kernel.content is None:
        return None
    kernel, disk = facts.kernel.content, facts.initrd
    if disk is None:
        return NextKernel(kernel, line(facts.command_line, kernel.contents.options))
    whole = line(facts.command_line, kernel.contents.options, disk.boot_config)
    return NextKernel(kernel, whole, disk.size, disk.content)


def kinds(facts: Facts) -> set[str]:
    """The kinds of files that the next kernel is handed: as declared by participants, and, for a session whose
    participant is gone, as declared last.
    """
    return set(_declared(facts)) | {kind for row, _state in facts.sessions for kind in row.kinds}


def _declared(facts: Facts) -> Iterator[str]:
    for declaration in facts.declarations:
        for session in declaration.sessions:
            for file in session.files:
                yield file.kind


def unattended(facts: Facts) -> list[str]:
    """Sessions that were declared and have no participant now: a kexec would tear them."""
    declared = {session.name for declaration in facts.declarations for session in declaration.sessions}
    rows = (row for row, _state in facts.sessions if isinstance(row, OutgoingRow))
    return sorted(row.name for row in rows if row.declared and row.generation is None and row.name not in declared)


def unanswered(
    sessions: Iterable[tuple[Row, SessionState]], declarations: Iterable[Declaration], among: Collection[str]
) -> bool:
    """Returns whether there is an outgoing session that no participant declares now, and that holds files of the kinds
    `among`, or files that nobody ever declared.
    """
    declared = {session.name for declaration in declarations for session in declaration.sessions}
    rows = (row for row, _state in sessions if isinstance(row, OutgoingRow) and row.name not in declared)
    return any(any(kind in among for kind in row.kinds) or row.state is OutgoingState.UNDECLARED for row in rows)
