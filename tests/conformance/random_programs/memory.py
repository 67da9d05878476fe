"""The part of the author that makes memory files and uses them as programs do, before and after PRESERVE_FD."""

from __future__ import annotations

from typing import Final

from tests.conformance.random_programs import garble
from tests.conformance.random_programs.beliefs import Device, Memory, Other, Process, Session
from tests.conformance.random_programs.writer import Writer

CLOEXEC, SEALING, HUGETLB, NOEXEC, EXEC = 0x1, 0x2, 0x4, 0x8, 0x10
MEMFDS: Final = (CLOEXEC | SEALING,) * 6 + (CLOEXEC, SEALING, CLOEXEC | NOEXEC, CLOEXEC | SEALING | EXEC)
SIZES: Final = (0, 1, 100, 4095, 4096, 4097, 8192, 8192, 12288, 20000, 65536, 300000, 1 << 20)
ENORMOUS: Final = (1 << 41, 1 << 45)
"""Beyond any memory: so large that a kernel does not even try (ENOMEM), and too large for the format (EFBIG)."""
SEALS: Final = (0x1, 0x2, 0x4, 0x8, 0x10, 0x6, 0x16, 0x20, 0x3F)
TMPFS: Final = ("tmpfs file, unlinked", "tmpfs O_TMPFILE")
ON_MEMORY: Final = ("same size", "grow", "shrink", "extend", "punch", "allocate") * 3 + (
    "fsync", "map", "poll", "reopen", "format", "link", "getfl", "getfd",
)  # fmt: skip
ON_OTHERS: Final = (
    "read", "write", "fsync", "ftruncate", "grow", "lseek", "map", "poll", "epoll", "reopen", "format", "link", "getfl",
    "getfd", "TCGETS", "FIONREAD", "TIOCGWINSZ", "0xbb00", "0xbb40", "0xbb43",
)  # fmt: skip


class MemoryCalls(Writer):
    """Makes, writes, seals, resizes, maps; looks at them and probes."""

    def memfd(self, process: Process) -> None:
        slot = self.slot("m")
        if self.rarely(8):
            self.ask(process, "make", kind=self.chance.choice(TMPFS), slot=slot)
            memory = Memory(0)
        elif self.rarely(25):
            memory = Memory(self.chance.choice(ENORMOUS), enormous=True)
            self.ask(process, "memfd", slot=slot, size=memory.size, flags=CLOEXEC | SEALING)
        elif self.rarely(25):
            self.ask(process, "memfd", slot=slot, size=0, flags=CLOEXEC | HUGETLB)
            process.files[slot] = Other()
            return
        else:
            memory = Memory(self.chance.choice(SIZES))
            self.ask(process, "memfd", slot=slot, size=memory.size, flags=self.chance.choice(MEMFDS))
            if memory.size and not self.rarely(4):
                length = min(memory.size, self.chance.choice((1, 4096, 70000)))
                self.ask(process, "fill", fd=slot, length=length, seed=self.chance.randrange(1 << 32))
        if not process.full:
            process.files[slot] = memory

    def memory(self, process: Process, *, fresh: bool = False) -> tuple[str, Memory] | None:
        """Returns a memory file with contents of readable size; `fresh`: one that cannot have been preserved."""
        fitting = [
            (slot, file)
            for slot, file in process.files.items()
            if isinstance(file, Memory) and not file.enormous and not (fresh and file.attempted)
        ]
        return self.chance.choice(fitting) if fitting else None

    def probe(self, process: Process) -> None:
        if self.rarely(3):
            fd = self.any(process, Device, Session)
            if fd is not None:
                self.ask(process, "probe", fd=fd, what=self.chance.choice(ON_OTHERS))
        elif found := self.memory(process):
            self.ask(process, "probe", fd=found[0], what=self.chance.choice(ON_MEMORY))

    def about(self, process: Process) -> None:
        if found := self.memory(process):
            self.ask(process, "about", fd=found[0])

    def digest(self, process: Process) -> None:
        if found := self.memory(process):
            self.ask(process, "digest", fd=found[0])

    def scrawl(self, process: Process) -> None:
        if found := self.memory(process):
            offset = self.chance.randrange(found[1].size + 1)
            self.ask(process, "scrawl", fd=found[0], offset=offset, data=garble.text(self.chance))

    def seek(self, process: Process) -> None:
        if found := self.memory(process):
            if self.rarely(2):
                self.ask(process, "read", fd=found[0], length=self.chance.choice((1, 100, 4096)))
            else:
                offset = self.chance.choice((0, 1, 4096, 1 << 33, (1 << 63) - 1, -1, self.chance.randrange(100000)))
                self.ask(process, "lseek", fd=found[0], offset=offset, whence=self.chance.choice((0, 0, 1, 2, 3, 4)))

    def resize(self, process: Process) -> None:
        if (found := self.memory(process, fresh=True)) and found[1] not in process.maps.values():
            slot, memory = found
            memory.size = self.chance.choice(SIZES)
            self.ask(process, "ftruncate", fd=slot, size=memory.size)

    def seal(self, process: Process) -> None:
        if found := self.memory(process):
            slot, memory = found
            # F_SEAL_WRITE differs after F_SEAL_FUTURE_WRITE (docs/divergences.md); F_SEAL_EXEC implies it.
            seals = self.chance.choice(SEALS) & ~(0x28 if memory.attempted else 0)
            self.ask(process, "add_seals", fd=slot, seals=seals)

    def mapping(self, process: Process) -> None:
        if process.maps and not self.rarely(3):
            name = self.chance.choice(list(process.maps))
            if self.rarely(3):
                self.ask(process, "unmap", name=name)
                del process.maps[name]
            elif self.rarely(2):
                self.ask(process, "poke", name=name, offset=self.chance.randrange(4000), data=garble.text(self.chance))
            else:
                self.ask(process, "peek", name=name, offset=self.chance.randrange(4000), length=8)
            return
        found = self.memory(process)
        # Never resized for good from here on, so no access can meet the end of the file.
        if found and found[1].attempted and found[1].size >= 4096:
            name = self.slot("map")
            self.ask(process, "map", name=name, fd=found[0], length=4096)
            process.maps[name] = found[1]
