"""PRESERVE_FD: docs/kernel.md, 5."""

from __future__ import annotations

from collections import Counter
from errno import EBADF, EBUSY, EEXIST, EFAULT, EFBIG, EINVAL, ENOENT, ENOMEM, EOPNOTSUPP

import pytest

from luod.emulator.model.ports import Kind
from tests.emulator.model.world import READ_ONLY, Process, World, jump, number


@pytest.fixture
def session(vmm: Process, device: int) -> int:
    return number(vmm.create(device, b"vm"))


@pytest.fixture
def other(vmm: Process, device: int) -> int:
    return number(vmm.create(device, b"other"))


@pytest.mark.parametrize("data", [b"", b"x", b"ram" * 5000])
@pytest.mark.parametrize("seals", [0, 0x1, 0x20, 0x3F])
def test_a_memfd_of_any_content_and_seals_is_preserved(vmm: Process, session: int, data: bytes, seals: int) -> None:
    assert vmm.preserve(session, vmm.memfd(data, seals), 1) == 0


@pytest.mark.parametrize("kind", [Kind.HUGETLB, Kind.OTHER])
def test_other_kinds_are_enoent(vmm: Process, session: int, kind: Kind) -> None:
    assert vmm.preserve(session, vmm.memfd(kind=kind), 1) == -ENOENT


def test_device_and_sessions_are_enoent(vmm: Process, device: int, session: int, other: int) -> None:
    assert vmm.preserve(session, device, 1) == -ENOENT
    assert vmm.preserve(session, session, 1) == -ENOENT
    assert vmm.preserve(session, other, 1) == -ENOENT


def test_a_session_that_was_refused_still_closes(vmm: Process, device: int, session: int) -> None:
    """The reference of the failed call is given back."""
    assert vmm.preserve(session, session, 1) == -ENOENT
    vmm.close(session)
    assert number(vmm.create(device, b"vm"))


@pytest.mark.parametrize("fd", [-1, 999, 0x7FFFFFFF])
def test_closed_numbers_are_ebadf(vmm: Process, session: int, fd: int) -> None:
    assert vmm.preserve(session, fd, 1) == -EBADF


@pytest.mark.parametrize(("size", "answer"), [(2**45, -EFBIG), (2**44, -EFBIG), (2**44 - 4096, 0)])
def test_more_pages_than_an_int_counts(vmm: Process, session: int, size: int, answer: int) -> None:
    memfd = vmm.memfd()
    vmm.inode(memfd).pretended_size = size
    assert vmm.preserve(session, memfd, 1) == answer
    vmm.inode(memfd).pretended_size = 0


def test_unknown_seals_are_eopnotsupp(vmm: Process, session: int) -> None:
    memfd = vmm.memfd(seals=0x40)
    vmm.inode(memfd).pretended_size = 2**45
    assert vmm.preserve(session, memfd, 1) == -EOPNOTSUPP


def test_holes_are_filled(vmm: Process, session: int) -> None:
    memfd = vmm.memfd()
    assert vmm.preserve(session, memfd, 1) == 0
    assert vmm.inode(memfd).filled


def test_no_memory_for_holes_preserves_nothing(vmm: Process, session: int) -> None:
    memfd = vmm.memfd()
    vmm.inode(memfd).fill_error = ENOMEM
    assert vmm.preserve(session, memfd, 1) == -ENOMEM
    vmm.inode(memfd).fill_error = 0
    assert vmm.preserve(session, memfd, 1) == 0


def test_other_memfd_used_token(vmm: Process, session: int) -> None:
    assert vmm.preserve(session, vmm.memfd(), 7) == 0
    assert vmm.preserve(session, vmm.memfd(), 7) == -EEXIST


def test_same_memfd_same_token(vmm: Process, session: int) -> None:
    memfd = vmm.memfd()
    assert vmm.preserve(session, memfd, 7) == 0
    assert vmm.preserve(session, memfd, 7) == -EEXIST


def test_same_memfd_other_token(vmm: Process, session: int) -> None:
    memfd = vmm.memfd()
    assert vmm.preserve(session, memfd, 7) == 0
    assert vmm.preserve(session, memfd, 8) == -EBUSY


def test_same_memfd_other_session(vmm: Process, session: int, other: int) -> None:
    memfd = vmm.memfd()
    assert vmm.preserve(session, memfd, 7) == 0
    assert vmm.preserve(other, memfd, 7) == -EBUSY


def test_identity_is_the_inode(vmm: Process, session: int) -> None:
    memfd = vmm.memfd()
    assert vmm.preserve(session, memfd, 7) == 0
    assert vmm.preserve(session, vmm.dup(memfd), 8) == -EBUSY
    assert vmm.preserve(session, vmm.reopen(memfd), 8) == -EBUSY


def test_token_is_checked_before_the_fd(vmm: Process, session: int) -> None:
    assert vmm.preserve(session, vmm.memfd(), 7) == 0
    assert vmm.preserve(session, -1, 7) == -EEXIST
    assert vmm.preserve(session, vmm.memfd(kind=Kind.OTHER), 7) == -EEXIST


def test_same_token_in_another_session(vmm: Process, session: int, other: int) -> None:
    assert vmm.preserve(session, vmm.memfd(), 7) == 0
    assert vmm.preserve(other, vmm.memfd(), 7) == 0


@pytest.mark.parametrize("token", [0, 2**64 - 1])
def test_tokens_at_both_ends(world: World, vmm: Process, session: int, token: int) -> None:
    assert vmm.preserve(session, vmm.memfd(b"ram"), token) == 0
    late = jump(world, vmm)
    incoming = number(late.retrieve_session(late.open_device(), b"vm"))
    assert late.inode(number(late.retrieve(incoming, token))).data == b"ram"


def test_token_is_free_after_a_failed_preserve(vmm: Process, session: int) -> None:
    memfd = vmm.memfd()
    assert vmm.preserve(session, memfd, 7) == 0
    assert vmm.preserve(session, memfd, 8) == -EBUSY
    assert vmm.preserve(session, vmm.memfd(), 8) == 0


def test_memfd_of_a_closed_session(vmm: Process, session: int, other: int) -> None:
    memfd = vmm.memfd()
    assert vmm.preserve(session, memfd, 7) == 0
    vmm.close(session)
    assert vmm.preserve(other, memfd, 7) == 0


def test_closing_the_memfd_keeps_it(world: World, vmm: Process, session: int) -> None:
    memfd = vmm.memfd(b"ram")
    assert vmm.preserve(session, memfd, 7) == 0
    vmm.close(memfd)
    late = jump(world, vmm)
    incoming = number(late.retrieve_session(late.open_device(), b"vm"))
    assert late.inode(number(late.retrieve(incoming, 7))).data == b"ram"


@pytest.mark.parametrize("end", ["finish", "close"])
def test_retrieved_memfd_is_ebusy_until_finish(world: World, vmm: Process, session: int, end: str) -> None:
    assert vmm.preserve(session, vmm.memfd(), 7) == 0
    late = jump(world, vmm)
    device = late.open_device()
    incoming = number(late.retrieve_session(device, b"vm"))
    memfd = number(late.retrieve(incoming, 7))
    outgoing = number(late.create(device, b"vm"))
    assert late.preserve(outgoing, memfd, 7) == -EBUSY
    assert late.preserve(outgoing, late.reopen(memfd), 7) == -EBUSY
    if end == "finish":
        assert late.finish(incoming) == 0
    else:
        late.close(incoming)
    assert late.preserve(outgoing, memfd, 7) == 0


def test_eight_tries_for_one_memfd(vmm: Process, session: int) -> None:
    memfd = vmm.memfd()
    assert Counter(vmm.preserve(session, memfd, token) for token in range(8)) == {0: 1, -EBUSY: 7}


def test_eight_tries_for_one_token(vmm: Process, session: int) -> None:
    assert Counter(vmm.preserve(session, vmm.memfd(), 1) for _ in range(8)) == {0: 1, -EEXIST: 7}


def test_3000_memfds_in_a_session(world: World, vmm: Process, session: int) -> None:
    for token in range(3000):
        memfd = vmm.memfd(b"%d" % token)
        assert vmm.preserve(session, memfd, token) == 0
        vmm.close(memfd)
    late = jump(world, vmm)
    incoming = number(late.retrieve_session(late.open_device(), b"vm"))
    for token in (2999, 0, 1500):
        assert late.inode(number(late.retrieve(incoming, token))).data == b"%d" % token


def test_read_only_argument_leaves_it_preserved(world: World, vmm: Process, session: int) -> None:
    memfd = vmm.memfd(b"ram")
    assert vmm.preserve(session, memfd, 7, READ_ONLY) == -EFAULT
    assert vmm.preserve(session, vmm.memfd(), 7) == -EEXIST
    assert vmm.preserve(session, memfd, 8) == -EBUSY
    late = jump(world, vmm)
    incoming = number(late.retrieve_session(late.open_device(), b"vm"))
    assert late.inode(number(late.retrieve(incoming, 7))).data == b"ram"


def test_preserve_on_a_retrieved_session(world: World, vmm: Process, session: int) -> None:
    late = jump(world, vmm)
    incoming = number(late.retrieve_session(late.open_device(), b"vm"))
    assert late.preserve(incoming, late.memfd(), 1) == -EINVAL
    assert late.finish(incoming) == 0
    assert late.preserve(incoming, late.memfd(), 1) == -EINVAL


def test_failed_preserve_gives_the_file_back(world: World, vmm: Process, session: int) -> None:
    kept = vmm.memfd()
    assert vmm.preserve(session, kept, 1) == 0
    assert len(world.held) == 1
    assert vmm.preserve(session, kept, 2) == -EBUSY
    assert vmm.preserve(session, vmm.memfd(kind=Kind.OTHER), 2) == -ENOENT
    assert len(world.held) == 1
    vmm.close(session)
    assert world.held == []
