"""The author's beliefs about the effects of a random program's calls, so that later calls make sense.

They are only a guide: a wrong belief makes a question that gets an errno, the same one on both machines. One belief is
never wrong, since it needs no kernel: which names may lead to the same file. A memory file that may have been preserved
is not resized for good any more, since a real kernel refuses that and the emulated machine does not.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass(eq=False)
class Device:
    """An open /dev/liveupdate."""


@dataclass(eq=False)
class Session:
    name: str
    outgoing: bool
    tokens: dict[int, Memory] = field(default_factory=dict)


@dataclass(eq=False)
class Memory:
    """A memory file. `attempted`: it was given to a PRESERVE_FD."""

    size: int
    attempted: bool = False
    enormous: bool = False
    """Its contents are too large to read."""


@dataclass(eq=False)
class Other:
    """Any file that cannot be preserved."""


@dataclass(eq=False)
class Socket:
    """One end of a pair. `queue` has the messages that it could receive."""

    queue: list[File] = field(default_factory=list)
    other: Socket | None = None


File = Device | Session | Memory | Other | Socket


@dataclass(eq=False)
class Process:
    """The driver (path ()) or one of its children."""

    path: tuple[str, ...] = ()
    files: dict[str, File] = field(default_factory=dict)
    maps: dict[str, Memory] = field(default_factory=dict)
    root: bool = True
    full: bool = False
    """It has no free fd."""

    def child(self, name: str) -> Process:
        return Process((*self.path, name), dict(self.files), dict(self.maps), self.root, self.full)

    def slots(self, *kinds: type[File]) -> list[str]:
        return [slot for slot, file in self.files.items() if isinstance(file, kinds)]

    def unpreserved(self) -> list[str]:
        return [slot for slot, file in self.files.items() if isinstance(file, Memory) and not file.attempted]

    def sessions(self, *, outgoing: bool) -> list[str]:
        return [slot for slot, file in self.files.items() if isinstance(file, Session) and file.outgoing is outgoing]


def reachable(processes: list[Process]) -> Iterator[File]:
    """Yields every file that is open in a process, and those in messages in flight."""
    for process in processes:
        for file in process.files.values():
            yield file
            if isinstance(file, Socket):
                yield from file.queue
