"""The model's view of a real file, and the memfd after a kexec."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import tempfile
from collections.abc import Callable

import pytest

from luod import linux
from luod.emulator.model.ports import Errno, Kind
from luod.emulator.model.results import Unfinished
from luod.emulator.trap.process import available, memory_files
from luod.emulator.trap.process.memory_files import HostMemory, OpenFile
from luod.linux import Fd
from luod.uapi.memfd import F_ADD_SEALS, F_SEAL_GROW, F_SEAL_SEAL, F_SEAL_SHRINK, F_SEAL_WRITE, MFD_CLOEXEC, MFD_HUGETLB

HOST = HostMemory(lambda line: None)
SIZE = 3 * 4096 + 17


def unlinked(directory: str) -> Fd:
    fd, path = tempfile.mkstemp(dir=directory)
    os.unlink(path)
    return Fd(fd)


def linked(directory: str) -> Fd:
    return Fd(os.open(directory, os.O_RDONLY | os.O_DIRECTORY))


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (lambda: linux.memfd("m", 10), Kind.MEMFD),
        (lambda: unlinked("/dev/shm"), Kind.MEMFD),
        (lambda: unlinked("/var/tmp"), Kind.OTHER),
        (lambda: linked("/dev/shm"), Kind.OTHER),
        (lambda: Fd(os.eventfd(0)), Kind.OTHER),
        (lambda: Fd(os.open("/dev/null", os.O_RDWR)), Kind.OTHER),
        (lambda: Fd(os.memfd_create("h", MFD_HUGETLB | MFD_CLOEXEC)), Kind.HUGETLB),
    ],
    ids=["memfd", "unlinked tmpfs", "unlinked disk", "directory", "eventfd", "null", "hugetlb"],
)
def test_memory_is_told_from_other_files(make: Callable[[], Fd], kind: Kind) -> None:
    file = OpenFile(make())
    assert file.kind is kind
    file.close()


def test_linked_tmpfs_file_is_no_memfd() -> None:
    with tempfile.NamedTemporaryFile(dir="/dev/shm") as named:
        file = OpenFile(Fd(os.dup(named.fileno())))
        kind = file.kind
        file.close()
        assert kind is Kind.TMPFS


@pytest.mark.parametrize("flags", [os.O_RDWR, os.O_RDONLY, os.O_WRONLY])
def test_take_over_keeps_what_the_kernel_keeps(flags: int) -> None:
    with linux.memfd("m", SIZE) as memory:
        os.pwrite(memory.fileno(), b"begin", 0)
        os.pwrite(memory.fileno(), b"end", SIZE - 3)
        kept = OpenFile(Fd(os.open(f"/proc/self/fd/{memory.fileno()}", flags)))
        kept.pin()
        assert os.fstat(memory.fileno()).st_blocks * 512 >= SIZE
        seals = F_SEAL_GROW | F_SEAL_SHRINK
        new = HOST.take_over(kept, size=SIZE, seals=seals, position=77)
        content = os.pread(new.fileno(), SIZE + 1, 0)
        assert (len(content), content[:5], content[-3:]) == (SIZE, b"begin", b"end")
        assert new.identity != kept.identity
        assert (new.size(), new.seals(), new.position()) == (SIZE, seals, 77)
        assert os.fstat(new.fileno()).st_mode & 0o7777 == 0o777
        assert fcntl.fcntl(new.fileno(), fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDWR
        assert os.fstat(new.fileno()).st_blocks * 512 >= SIZE
        new.close()
        kept.close()


def test_take_over_of_an_immutable_file() -> None:
    """F_SEAL_EXEC becomes every seal (docs/kernel.md, 0)."""
    with linux.memfd("m", 10) as memory:
        os.pwrite(memory.fileno(), b"0123456789", 0)
        kept = OpenFile(memory.duplicate())
        new = HOST.take_over(kept, size=10, seals=0x3E, position=0)
        assert new.seals() == 0x3E
        assert os.pread(new.fileno(), 10, 0) == b"0123456789"
        with pytest.raises(PermissionError):
            os.pwrite(new.fileno(), b"x", 0)
        new.close()
        kept.close()


def test_take_over_after_the_file_shrank() -> None:
    with linux.memfd("m", SIZE) as memory:
        os.pwrite(memory.fileno(), b"begin", 0)
        kept = OpenFile(memory.duplicate())
        os.ftruncate(memory.fileno(), 5)
        new = HOST.take_over(kept, size=SIZE, seals=0, position=0)
        assert os.pread(new.fileno(), SIZE, 0) == b"begin".ljust(SIZE, b"\0")
        new.close()
        kept.close()


def test_a_large_file_is_copied_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy of a GiB takes seconds, and the machine answers no other call during a turn."""
    monkeypatch.setattr(memory_files, "_TURN", 2 * 4096)
    content = os.urandom(SIZE)
    with linux.memfd("m", SIZE) as memory:
        os.pwrite(memory.fileno(), content, 0)
        kept = OpenFile(memory.duplicate())
        with pytest.raises(Unfinished):
            HOST.take_over(kept, size=SIZE, seals=F_SEAL_GROW, position=3)
        new = HOST.take_over(kept, size=SIZE, seals=F_SEAL_GROW, position=3)
        assert os.pread(new.fileno(), SIZE + 1, 0) == content
        assert (new.seals(), new.position()) == (F_SEAL_GROW, 3)
        new.close()
        kept.close()


def test_a_copy_that_is_given_up_keeps_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_files, "_TURN", 4096)
    before = os.listdir("/proc/self/fd")
    with linux.memfd("m", SIZE) as memory:
        kept = OpenFile(memory.duplicate())
        with pytest.raises(Unfinished):
            HOST.take_over(kept, size=SIZE, seals=0, position=0)
        kept.close()
    assert os.listdir("/proc/self/fd") == before


def test_holes_become_data_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each turn may be on another open file, as each is of a call that is made again."""
    monkeypatch.setattr(memory_files, "_TURN", 2 * 4096)
    with linux.memfd("m", 9 * 4096) as memory:
        os.pwrite(memory.fileno(), b"x", 3 * 4096)
        turns = 0
        while True:
            turns += 1
            kept = OpenFile(memory.duplicate())
            try:
                kept.pin()
            except Unfinished:
                continue
            finally:
                kept.close()
            break
        assert turns == 4
        assert os.lseek(memory.fileno(), 0, os.SEEK_HOLE) == 9 * 4096


def test_absurd_sizes_are_refused() -> None:
    with linux.memfd("m", 1 << 44) as memory:
        file = OpenFile(memory.duplicate())
        with pytest.raises(Errno) as refused:
            file.pin()
        assert refused.value.code == errno.ENOMEM
        with pytest.raises(Errno) as refused:
            HOST.take_over(file, size=1 << 44, seals=0, position=0)
        assert refused.value.code == errno.ENOMEM
        assert os.fstat(memory.fileno()).st_blocks == 0
        file.close()


def test_many_small_files_are_refused_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_files, "_RESERVE", 3 * SIZE)
    monkeypatch.setattr(memory_files, "_unasked", 0)
    monkeypatch.setattr(available, "memory", lambda: memory_files._RESERVE + SIZE)
    refused = []
    with contextlib.ExitStack() as files:
        for number in range(4):
            file = OpenFile(files.enter_context(linux.memfd("m", 2 * SIZE)).duplicate())
            files.callback(file.close)
            try:
                file.pin()
            except Errno as error:
                refused.append((number, error.code))
    assert refused == [(number, errno.ENOMEM) for number in (1, 2, 3)]


def test_files_that_allow_no_seals() -> None:
    with linux.memfd("m", 1, sealing=False) as memory:
        file = OpenFile(memory.duplicate())
        assert file.seals() == F_SEAL_SEAL
        file.close()
    file = OpenFile(unlinked("/dev/shm"))
    assert file.seals() == F_SEAL_SEAL
    file.close()


@pytest.mark.parametrize("seals", [0, F_SEAL_WRITE, 0x10], ids=["none", "write", "future write"])
def test_holes_become_data(seals: int) -> None:
    with linux.memfd("m", SIZE) as memory:
        os.posix_fallocate(memory.fileno(), 4096, 4096)
        fcntl.fcntl(memory.fileno(), F_ADD_SEALS, seals)
        kept = OpenFile(Fd(os.dup(memory.fileno())))
        kept.pin()
        assert os.lseek(memory.fileno(), 0, os.SEEK_HOLE) == SIZE
        kept.close()


def test_a_pinned_file_takes_no_write_seal_until_it_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_files, "_MOST_PINS", 1)
    with linux.memfd("first", SIZE) as first, linux.memfd("second", SIZE) as second:
        kept, beyond = OpenFile(first.duplicate()), OpenFile(second.duplicate())
        kept.pin()
        beyond.pin()
        with pytest.raises(OSError, match="busy"):
            fcntl.fcntl(first.fileno(), F_ADD_SEALS, F_SEAL_WRITE)
        fcntl.fcntl(second.fileno(), F_ADD_SEALS, F_SEAL_WRITE)  # so that there are mappings left for other uses
        kept.close()
        fcntl.fcntl(first.fileno(), F_ADD_SEALS, F_SEAL_WRITE)
        beyond.close()


def test_a_file_that_came_back_has_no_owner_until_it_gets_one() -> None:
    with linux.memfd("m", SIZE) as memory:
        kept = OpenFile(Fd(os.dup(memory.fileno())))
        new = HOST.take_over(kept, size=SIZE, seals=0, position=0)
        new.give_to(os.getuid(), os.getgid())
        assert not new.ownerless
        assert os.fstat(new.fileno()).st_uid == os.getuid()
        new.close()
        kept.close()


def test_open_for_writing() -> None:
    with linux.memfd("m", SIZE) as memory:
        reader = OpenFile(Fd(os.dup(memory.fileno())))
        # The fd memfd_create gives does not count, in the kernel.
        assert not reader.open_for_writing()
        with reader.reopen(os.O_RDWR):
            assert reader.open_for_writing()
        assert not reader.open_for_writing()
        reader.close()


def test_a_preserved_file_is_not_open_for_writing_by_that() -> None:
    """So kexec_file_load of it does not answer ETXTBSY."""
    with linux.memfd("m", SIZE) as memory:
        kept = OpenFile(Fd(os.dup(memory.fileno())))
        kept.pin()
        assert not kept.open_for_writing()
        kept.close()
