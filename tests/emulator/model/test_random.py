"""Random lives of a machine, call by call, against `Book`: the same kernel in short, without code of the model.

`Book` was written from the measured tables of docs/kernel.md alone. Each rule makes one call with arguments that are
often wrong, and compares the answer. After every call the model must hold exactly the files that the book holds.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from errno import EBADF, EBUSY, EEXIST, EFAULT, EINVAL, EIO, EMFILE, ENOENT, ENOMEM

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from luod.emulator.model.kernel import Kernel
from luod.emulator.model.profile import Profile
from luod.emulator.model.results import Jump
from tests.emulator.model.test_kexec import segments
from tests.emulator.model.world import (
    COMMAND_LINE,
    FORMATS,
    READ_ONLY,
    SCRATCH,
    Inode,
    Process,
    World,
    boot,
    bzimage,
    land,
)

NAMES = st.sampled_from([b"a", b"b", b"n" * 63, b"a\0b", b"", b"n" * 64])
TOKENS = st.sampled_from([0, 1, 2**64 - 1])
ANY = st.integers(0, 50)
"""Picks one of a list, modulo its length."""
RARELY = st.sampled_from([False, False, False, False, True])


@dataclass
class Waiting:
    """An incoming session. `files` empties with the finish; `got` and `failed` are the tokens tried so far.

    Of those `got`, the fds of `unseen` never reached the process, so their inode is not known yet.
    """

    files: dict[int, bytes]
    got: dict[int, Inode] = field(default_factory=dict)
    failed: set[int] = field(default_factory=set)
    unseen: set[int] = field(default_factory=set)
    taken: bool = False

    def finish(self, document: bool) -> bool:
        if document and set(self.files) - set(self.got):
            return False
        self.files, self.got, self.failed, self.unseen = {}, {}, set(), set()
        return True


@dataclass
class Book:
    """A kernel's answers: 0 for any success, or a negative errno."""

    document: bool
    handler: bool = True
    device: bool = False
    broken: bool = False
    outgoing: dict[bytes, dict[int, Inode]] = field(default_factory=dict)
    incoming: dict[bytes, Waiting] = field(default_factory=dict)

    def held(self) -> int:
        waiting = sum(len(set(each.files) - each.failed) for each in self.incoming.values())
        return sum(map(len, self.outgoing.values())) + waiting

    def busy(self, inode: Inode) -> bool:
        everywhere = [*self.outgoing.values(), *(each.got for each in self.incoming.values())]
        return any(inode is other for files in everywhere for other in files.values())

    def open(self) -> int:
        if self.device:
            return -EBUSY
        if self.broken:
            return -EIO
        self.device = True
        return 0

    def create(self, field: bytes, full: bool, fault: bool) -> int:
        name = field.split(b"\0")[0]
        if full:
            return -EMFILE
        if not 1 <= len(name) <= 63:
            return -EINVAL
        if name in self.outgoing:
            return -EEXIST
        if fault:
            return -EFAULT
        self.outgoing[name] = {}
        return 0

    def retrieve_session(self, field: bytes, full: bool, fault: bool) -> int:
        name = field.split(b"\0")[0]
        if full:
            return -EMFILE
        if name not in self.incoming:
            return -ENOENT
        if self.incoming[name].taken:
            return -EINVAL
        self.incoming[name].taken = True
        if fault:
            self.close(name, outgoing=False)
            return -EFAULT
        return 0

    def close(self, name: bytes, outgoing: bool) -> None:
        if outgoing:
            del self.outgoing[name]
        elif self.incoming[name].finish(self.document):
            del self.incoming[name]

    def preserve(self, name: bytes, outgoing: bool, token: int, inode: Inode | None, fault: bool) -> int:
        if not outgoing:
            return -EINVAL
        if token in self.outgoing[name]:
            return -EEXIST
        if inode is None:
            return -EBADF
        if not self.handler:
            return -ENOENT
        if self.busy(inode):
            return -EBUSY
        if inode.fill_error:
            return -inode.fill_error
        self.outgoing[name][token] = inode
        return -EFAULT if fault else 0

    def unpreserve(self, name: bytes, outgoing: bool, token: int, fault: bool) -> int:
        if not self.document or not outgoing:
            return -EINVAL
        if self.outgoing[name].pop(token, None) is None:
            return -ENOENT
        return -EFAULT if fault else 0

    def retrieve(self, name: bytes, outgoing: bool, token: int, full: bool, fault: bool, no_memory: bool) -> int:
        if outgoing:
            return -EINVAL
        session = self.incoming[name]
        if full:
            return -EMFILE
        if token not in session.files:
            return -ENOENT
        if token in session.failed:
            return -ENOMEM
        if token not in session.got:
            if no_memory:
                session.failed.add(token)
                return -ENOMEM
            session.got[token] = Inode()
            session.unseen.add(token)
        return -EFAULT if fault else 0

    def finish(self, name: bytes, outgoing: bool, fault: bool) -> int:
        if outgoing:
            return -EINVAL
        if not self.incoming[name].finish(self.document):
            return -EBUSY
        return -EFAULT if fault else 0

    def jump(self, carried: bool, handler: bool) -> None:
        sessions = self.outgoing if carried else {}
        self.incoming = {
            name: Waiting({token: inode.data for token, inode in files.items()}) for name, files in sessions.items()
        }
        self.outgoing, self.device, self.handler = {}, False, handler
        self.broken = not handler and any(each.files for each in self.incoming.values())


@dataclass
class Session:
    """A session that a process has open, by one or more fds."""

    name: bytes
    outgoing: bool
    fds: list[int]


class Life(RuleBasedStateMachine):
    """One process at a time makes all calls. `device` is its fd of /dev/liveupdate."""

    world: World
    book: Book

    @initialize(profile=st.sampled_from(Profile))
    def switch_on(self, profile: Profile) -> None:
        self.world = boot(lambda host: Kernel(host, features=profile.features))
        self.book = Book(profile is Profile.DOCUMENT)
        self.start(Process(self.world))
        self.open_device()

    def start(self, process: Process) -> None:
        self.process = process
        self.device: int | None = None
        self.sessions: list[Session] = []
        self.memfds: list[int] = []

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.process.die()
            self.world.switch_off()

    @invariant()
    def holds_what_the_book_says(self) -> None:
        if hasattr(self, "world"):
            assert len(self.world.held) == self.book.held()

    def limit(self, full: bool) -> None:
        self.process.fd_limit = len(self.process.fds) + (0 if full else 1)

    def session(self, pick: int, outgoing: bool | None = None) -> Session:
        """Picks a session of that direction if there is one, else any."""
        fitting = [each for each in self.sessions if each.outgoing is outgoing] or self.sessions
        return fitting[pick % len(fitting)]

    def has_device(self) -> bool:
        return self.device is not None

    def has_sessions(self) -> bool:
        return bool(self.sessions)

    @rule()
    def open_device(self) -> None:
        fd = self.process.open_device()
        assert min(fd, 0) == self.book.open()
        if fd >= 0:
            self.device = fd

    @precondition(has_device)
    @rule()
    def close_device(self) -> None:
        assert self.device is not None
        self.process.close(self.device)
        self.device, self.book.device = None, False

    @rule(data=st.binary(max_size=3))
    def memfd(self, data: bytes) -> None:
        self.memfds.append(self.process.memfd(data))

    @rule(pick=ANY, code=st.sampled_from([0, 0, ENOMEM]))
    def memory_of_a_memfd(self, pick: int, code: int) -> None:
        """Sets whether its holes can be filled from now on."""
        if self.memfds:
            self.process.inode(self.memfds[pick % len(self.memfds)]).fill_error = code

    @rule(pick=ANY, byte=st.binary(min_size=1, max_size=1))
    def write(self, pick: int, byte: bytes) -> None:
        """Overwrites a memfd without a change of its size: the last content is preserved."""
        if self.memfds:
            inode = self.process.inode(self.memfds[pick % len(self.memfds)])
            inode.data = byte * len(inode.data)

    def give(self, fd: object, expected: int, session: Session) -> None:
        assert isinstance(fd, int)
        assert min(fd, 0) == expected
        if fd >= 0:
            session.fds.append(fd)
            self.sessions.append(session)

    @precondition(has_device)
    @rule(name=NAMES, full=RARELY, fault=RARELY)
    def create(self, name: bytes, full: bool, fault: bool) -> None:
        assert self.device is not None
        self.limit(full)
        fd = self.process.create(self.device, name, READ_ONLY if fault else SCRATCH)
        self.give(fd, self.book.create(name, full, fault), Session(name.split(b"\0")[0], True, []))

    @precondition(has_device)
    @rule(pick=ANY, other=NAMES, unknown=RARELY, full=RARELY, fault=RARELY)
    def retrieve_session(self, pick: int, other: bytes, unknown: bool, full: bool, fault: bool) -> None:
        assert self.device is not None
        known = sorted(self.book.incoming)
        name = other if unknown or not known else known[pick % len(known)]
        self.limit(full)
        fd = self.process.retrieve_session(self.device, name, READ_ONLY if fault else SCRATCH)
        self.give(fd, self.book.retrieve_session(name, full, fault), Session(name.split(b"\0")[0], False, []))

    @precondition(has_device)
    @rule(data=st.binary(max_size=3), more=st.binary(max_size=3), name=NAMES)
    def fill_a_session(self, data: bytes, more: bytes, name: bytes) -> None:
        """Creates a session with two files for the next kexec to preserve."""
        before = len(self.sessions)
        self.create(name, full=False, fault=False)
        for token, contents in ((0, data), (1, more)) if len(self.sessions) > before else ():
            self.memfd(contents)
            self.preserve(-1, -1, token, wrong=False, bad=False, again=False, fault=False)

    @precondition(has_sessions)
    @rule(pick=ANY)
    def duplicate(self, pick: int) -> None:
        session = self.session(pick)
        session.fds.append(self.process.dup(session.fds[0]))

    @precondition(has_sessions)
    @rule(pick=ANY, every=st.booleans())
    def close_session(self, pick: int, every: bool) -> None:
        session = self.session(pick)
        while session.fds:
            self.process.close(session.fds.pop())
            if not every:
                break
        if not session.fds:
            self.sessions.remove(session)
            self.book.close(session.name, session.outgoing)

    @rule(pick=ANY)
    def close_memfd(self, pick: int) -> None:
        if self.memfds:
            self.process.close(self.memfds.pop(pick % len(self.memfds)))

    @precondition(has_sessions)
    @rule(pick=ANY, which=ANY, token=TOKENS, wrong=RARELY, bad=RARELY, again=RARELY, fault=RARELY)
    def preserve(self, pick: int, which: int, token: int, wrong: bool, bad: bool, again: bool, fault: bool) -> None:
        session = self.session(pick, not wrong)
        fd = -1 if bad or not self.memfds else self.memfds[which % len(self.memfds)]
        if again and fd >= 0:
            fd = self.process.reopen(fd)
            self.memfds.append(fd)
        inode = None if fd < 0 else self.process.inode(fd)
        answer = self.process.preserve(session.fds[-1], fd, token, READ_ONLY if fault else SCRATCH)
        assert answer == self.book.preserve(session.name, session.outgoing, token, inode, fault)

    @precondition(has_sessions)
    @rule(pick=ANY, token=TOKENS, wrong=RARELY, fault=RARELY)
    def unpreserve(self, pick: int, token: int, wrong: bool, fault: bool) -> None:
        session = self.session(pick, not wrong)
        answer = self.process.unpreserve(session.fds[-1], token, READ_ONLY if fault else SCRATCH)
        assert answer == self.book.unpreserve(session.name, session.outgoing, token, fault)

    @precondition(has_sessions)
    @rule(pick=ANY, token=TOKENS, wrong=RARELY, full=RARELY, fault=RARELY, no_memory=RARELY)
    def retrieve(self, pick: int, token: int, wrong: bool, full: bool, fault: bool, no_memory: bool) -> None:
        session = self.session(pick, wrong)
        self.limit(full)
        self.world.take_over_error = ENOMEM if no_memory else 0
        fd = self.process.retrieve(session.fds[-1], token, READ_ONLY if fault else SCRATCH)
        assert isinstance(fd, int)
        assert min(fd, 0) == self.book.retrieve(session.name, session.outgoing, token, full, fault, no_memory)
        if fd < 0:
            return
        self.memfds.append(fd)
        inode = self.process.inode(fd)
        waiting = self.book.incoming[session.name]
        if token in waiting.unseen:
            assert inode.data == waiting.files[token]
            assert not self.book.busy(inode)
            waiting.got[token] = inode
            waiting.unseen.remove(token)
        assert inode is waiting.got[token]

    @precondition(has_device)
    @rule(pick=ANY, token=TOKENS, fault=st.booleans(), no_memory=RARELY, name=NAMES)
    def restore_and_preserve(self, pick: int, token: int, fault: bool, no_memory: bool, name: bytes) -> None:
        """Restores a file twice, as a VMM that died in between does. Preserving it is refused before FINISH."""
        self.retrieve_session(pick, b"", unknown=False, full=False, fault=False)
        if any(not each.outgoing for each in self.sessions):
            self.retrieve(pick, token, wrong=False, full=False, fault=fault, no_memory=no_memory)
            self.retrieve(pick, token, wrong=False, full=False, fault=False, no_memory=False)
            self.create(name, full=False, fault=False)
            self.preserve(-1, -1, token, wrong=False, bad=False, again=False, fault=False)

    @precondition(has_sessions)
    @rule(pick=ANY, wrong=RARELY, fault=RARELY)
    def finish(self, pick: int, wrong: bool, fault: bool) -> None:
        session = self.session(pick, wrong)
        answer = self.process.finish(session.fds[-1], READ_ONLY if fault else SCRATCH)
        assert answer == self.book.finish(session.name, session.outgoing, fault)

    @precondition(has_sessions)
    @rule(pick=ANY)
    def get_name(self, pick: int) -> None:
        session = self.session(pick)
        assert self.process.get_name(session.fds[-1]) == session.name.ljust(64, b"\0")

    @rule()
    def reboot_without_image(self) -> None:
        assert self.process.reboot() == -EINVAL

    @precondition(lambda self: bool(self.book.outgoing))
    @rule(handler=st.sampled_from([True, True, True, False]), by_file=st.sampled_from([True, True, True, False]))
    def kexec(self, handler: bool, by_file: bool) -> None:
        image = bzimage(*(name for name in FORMATS if handler or name != "memfd-v2"))
        if by_file:
            assert self.process.kexec_file_load(image, COMMAND_LINE) == 0
        else:
            assert self.process.kexec_load(segments()) == 0
            handler = True
        assert self.process.reboot() == Jump()
        self.book.jump(by_file, handler)
        self.start(land(self.world, self.process))
        self.open_device()


TestLife = Life.TestCase
TestLife.settings = settings(stateful_step_count=80)
