"""After the kexec: docs/kernel.md, 7."""

from __future__ import annotations

from errno import E2BIG, EFAULT, EINVAL, EMFILE, ENOENT, ENOMEM, ENOSPC

import pytest

from luod.uapi.liveupdate import (
    LIVEUPDATE_IOCTL_RETRIEVE_SESSION,
    LIVEUPDATE_SESSION_FINISH,
    RETRIEVE_SESSION,
    SESSION_FINISH,
)
from tests.emulator.model.world import READ_ONLY, Process, World, jump, number


@pytest.fixture
def late(world: World, vmm: Process, device: int) -> Process:
    """Returns a process of the second boot, with the device as fd 3. `vm` holds tokens 1 to 3, `empty` no file."""
    session = number(vmm.create(device, b"vm"))
    for token in (1, 2, 3):
        assert vmm.preserve(session, vmm.memfd(b"ram%d" % token), token) == 0
    number(vmm.create(device, b"empty"))
    process = jump(world, vmm)
    assert process.open_device() == DEVICE
    return process


DEVICE = 3


@pytest.fixture
def incoming(late: Process) -> int:
    return number(late.retrieve_session(DEVICE, b"vm"))


def test_the_log_of_a_live_update(world: World, late: Process) -> None:
    assert world.lines == [
        "kexec_core: Starting new kernel",
        "KHO: found kexec handover data.",
        "luo: Retrieved live update data, liveupdate number: 1",
    ]
    jump(world, late)
    assert world.lines[-1] == "luo: Retrieved live update data, liveupdate number: 2"
    assert world.kernel.liveupdate_number == 2


@pytest.mark.parametrize("name", [b"unknown", b"", b"v", b"vmm", b"VM", b"v" * 64], ids=repr)
def test_unknown_names(late: Process, name: bytes) -> None:
    assert late.retrieve_session(DEVICE, name) == -ENOENT


def test_name_with_garbage_behind_its_nul(late: Process) -> None:
    argument = RETRIEVE_SESSION.pack(72, 0, b"vm\0garbage" + b"\xee" * 54)
    assert late.call(DEVICE, LIVEUPDATE_IOCTL_RETRIEVE_SESSION, argument) == 0


def test_a_session_whose_file_cannot_be_installed_stays(late: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another thread takes the last fd, or the host has no room for another file."""
    with monkeypatch.context() as patch:
        patch.setattr(late, "has_free_fd", iter([True, False]).__next__)
        assert late.retrieve_session(DEVICE, b"vm") == -EMFILE
    incoming = number(late.retrieve_session(DEVICE, b"vm"))
    assert late.contents(number(late.retrieve(incoming, 1))) == b"ram1"


def test_session_created_in_this_boot(late: Process) -> None:
    number(late.create(DEVICE, b"new"))
    assert late.retrieve_session(DEVICE, b"new") == -ENOENT


def test_retrieved_already_and_open(late: Process, incoming: int) -> None:
    assert late.retrieve_session(DEVICE, b"vm") == -EINVAL
    assert late.finish(incoming) == 0
    assert late.retrieve_session(DEVICE, b"vm") == -EINVAL
    late.close(late.dup(incoming))
    assert late.retrieve_session(DEVICE, b"vm") == -EINVAL


@pytest.mark.parametrize("finished", [False, True])
def test_retrieved_already_and_closed(late: Process, incoming: int, finished: bool) -> None:
    if finished:
        assert late.finish(incoming) == 0
    late.close(incoming)
    assert late.retrieve_session(DEVICE, b"vm") == -ENOENT


def test_retriever_died(world: World, late: Process) -> None:
    other = Process(world)
    number(other.retrieve_session(late.send(DEVICE, other), b"vm"))
    other.die()
    assert late.retrieve_session(DEVICE, b"vm") == -ENOENT
    # What was not retrieved is freed at once.
    assert world.held == []


def test_no_free_fd_and_retry(late: Process) -> None:
    late.fd_limit = len(late.fds)
    assert late.retrieve_session(DEVICE, b"unknown") == -EMFILE
    assert late.retrieve_session(DEVICE, b"vm") == -EMFILE
    late.fd_limit += 1
    session = number(late.retrieve_session(DEVICE, b"vm"))
    assert late.retrieve(session, 99) == -EMFILE
    assert late.retrieve(session, 1) == -EMFILE
    late.fd_limit += 1
    assert number(late.retrieve(session, 1))


def test_read_only_argument_loses_the_session(world: World, late: Process) -> None:
    assert late.retrieve_session(DEVICE, b"vm", READ_ONLY) == -EFAULT
    assert late.retrieve_session(DEVICE, b"vm") == -ENOENT
    assert world.held == []


def test_read_only_argument_of_an_unknown_name(late: Process) -> None:
    assert late.retrieve_session(DEVICE, b"unknown", READ_ONLY) == -ENOENT


def test_unknown_token(late: Process, incoming: int) -> None:
    assert late.retrieve(incoming, 4) == -ENOENT
    assert late.retrieve(incoming, 4, READ_ONLY) == -ENOENT
    empty = number(late.retrieve_session(DEVICE, b"empty"))
    assert late.retrieve(empty, 1) == -ENOENT


def test_same_token_again_is_the_same_open_file(late: Process, incoming: int) -> None:
    first, second = number(late.retrieve(incoming, 1)), number(late.retrieve(incoming, 1))
    assert first != second
    description = late.fds[first]
    assert late.fds[second] is description
    late.close(first)
    late.close(second)
    assert late.fds[number(late.retrieve(incoming, 1))] is description


def test_any_order_of_tokens(late: Process, incoming: int) -> None:
    for token in (3, 1, 2):
        assert late.inode(number(late.retrieve(incoming, token))).data == b"ram%d" % token


def test_read_only_argument_of_retrieve_can_be_repeated(late: Process, incoming: int) -> None:
    before = dict(late.fds)
    assert late.retrieve(incoming, 1, READ_ONLY) == -EFAULT
    assert late.fds == before
    assert late.inode(number(late.retrieve(incoming, 1))).data == b"ram1"


def test_a_file_belongs_to_whoever_asked_for_it_first(world: World, late: Process, incoming: int) -> None:
    late.uid = 1000
    assert late.retrieve(incoming, 1, READ_ONLY) == -EFAULT
    late.uid = 0
    assert late.inode(number(late.retrieve(incoming, 1))).owner == 1000
    assert late.inode(number(late.retrieve(incoming, 2))).owner == 0


@pytest.mark.parametrize("code", [ENOMEM, ENOSPC])
def test_failed_retrieve_is_final_and_frees_the_data(world: World, late: Process, incoming: int, code: int) -> None:
    held = len(world.held)
    world.take_over_error = code
    assert late.retrieve(incoming, 1) == -code
    assert len(world.held) == held - 1
    world.take_over_error = 0
    assert late.retrieve(incoming, 1) == -code
    assert late.inode(number(late.retrieve(incoming, 2))).data == b"ram2"
    assert late.finish(incoming) == 0
    assert late.retrieve(incoming, 1) == -ENOENT


def test_finish_reserved_size_and_tail(late: Process, incoming: int) -> None:
    assert late.finish(incoming, reserved=1) == -EINVAL
    assert late.call(incoming, LIVEUPDATE_SESSION_FINISH, SESSION_FINISH.pack(4, 0)) == -EINVAL
    assert late.call(incoming, LIVEUPDATE_SESSION_FINISH, SESSION_FINISH.pack(16, 0) + b"\0" * 7 + b"\1") == -E2BIG
    assert number(late.retrieve(incoming, 1))


@pytest.mark.parametrize("tokens", [(), (1,), (1, 2, 3)])
def test_finish_with_some_retrieved(world: World, late: Process, incoming: int, tokens: tuple[int, ...]) -> None:
    fds = [number(late.retrieve(incoming, token)) for token in tokens]
    assert late.finish(incoming) == 0
    assert world.held == []
    assert {late.retrieve(incoming, token) for token in (1, 2, 3)} == {-ENOENT}
    assert [late.inode(fd).data for fd in fds] == [b"ram%d" % token for token in tokens]


def test_finish_of_an_empty_session(late: Process) -> None:
    assert late.finish(number(late.retrieve_session(DEVICE, b"empty"))) == 0


def test_finish_twice(late: Process, incoming: int) -> None:
    assert late.finish(incoming) == 0
    assert late.finish(incoming) == 0


def test_read_only_argument_of_finish_finishes_nonetheless(late: Process, incoming: int) -> None:
    assert late.finish(incoming, READ_ONLY) == -EFAULT
    assert late.retrieve(incoming, 1) == -ENOENT


def test_fds_outlive_finish_and_close(late: Process, incoming: int) -> None:
    memfd = number(late.retrieve(incoming, 1))
    assert late.finish(incoming) == 0
    late.close(incoming)
    assert late.inode(memfd).data == b"ram1"


def test_close_is_an_implicit_finish(world: World, late: Process, incoming: int) -> None:
    memfd = number(late.retrieve(incoming, 1))
    late.close(incoming)
    assert world.held == []
    assert late.inode(memfd).data == b"ram1"
    assert late.retrieve_session(DEVICE, b"vm") == -ENOENT


@pytest.mark.parametrize("retrieved", [False, True])
def test_unfinished_sessions_do_not_reach_a_third_kernel(world: World, late: Process, retrieved: bool) -> None:
    if retrieved:
        session = number(late.retrieve_session(DEVICE, b"vm"))
        number(late.retrieve(session, 1))
    third = jump(world, late)
    device = third.open_device()
    assert third.retrieve_session(device, b"vm") == -ENOENT
    assert world.held == []


def test_device_never_opened_in_between(world: World, vmm: Process, device: int) -> None:
    session = number(vmm.create(device, b"vm"))
    assert vmm.preserve(session, vmm.memfd(), 1) == 0
    second = jump(world, vmm)
    third = jump(world, second)
    assert third.retrieve_session(third.open_device(), b"vm") == -ENOENT
    assert world.held == []


def test_preserved_again_reaches_a_third_kernel(world: World, late: Process, incoming: int) -> None:
    memfd = number(late.retrieve(incoming, 1))
    late.inode(memfd).data = b"changed"
    assert late.finish(incoming) == 0
    again = number(late.create(DEVICE, b"vm"))
    assert late.preserve(again, memfd, 9) == 0
    third = jump(world, late)
    session = number(third.retrieve_session(third.open_device(), b"vm"))
    assert third.inode(number(third.retrieve(session, 9))).data == b"changed"


# What a memfd keeps


def carried(world: World, vmm: Process, memfd: int) -> tuple[Process, int]:
    """Retrieves `memfd`, which is token 1 of `m`, in the next kernel. Returns the process and the fd."""
    late = jump(world, vmm)
    return late, number(late.retrieve(number(late.retrieve_session(late.open_device(), b"m")), 1))


def preserved(vmm: Process, device: int, data: bytes, seals: int = 0) -> int:
    memfd = vmm.memfd(data, seals)
    assert vmm.preserve(number(vmm.create(device, b"m")), memfd, 1) == 0
    return memfd


def test_contents_written_after_preserve(world: World, vmm: Process, device: int) -> None:
    memfd = preserved(vmm, device, b"before!")
    vmm.inode(memfd).data = b"after!!"
    late, fd = carried(world, vmm, memfd)
    assert late.inode(fd).data == b"after!!"


def test_size_is_exact_and_that_of_preserve(world: World, vmm: Process, device: int) -> None:
    memfd = preserved(vmm, device, b"x" * 4097)
    late, fd = carried(world, vmm, memfd)
    assert len(late.inode(fd).data) == 4097


def test_position_is_taken_at_the_jump(world: World, vmm: Process, device: int) -> None:
    memfd = preserved(vmm, device, b"0123456789")
    vmm.fds[memfd].position = 7
    late, fd = carried(world, vmm, memfd)
    assert late.fds[fd].position == 7


@pytest.mark.parametrize(
    ("before", "after"), [(0, 0), (0x1, 0x1), (0x4, 0x4), (0x1F, 0x1F), (0x20, 0x3E), (0x21, 0x3F), (0x3F, 0x3F)]
)
def test_seals(world: World, vmm: Process, device: int, before: int, after: int) -> None:
    memfd = preserved(vmm, device, b"x", before)
    late, fd = carried(world, vmm, memfd)
    assert late.inode(fd).seals == after


def test_seals_added_later_are_not_carried(world: World, vmm: Process, device: int) -> None:
    memfd = preserved(vmm, device, b"x", 0)
    vmm.inode(memfd).seals = 0xF
    late, fd = carried(world, vmm, memfd)
    assert late.inode(fd).seals == 0
