"""CREATE_SESSION, and the answers of every session fd: docs/kernel.md, 3 and 4."""

from __future__ import annotations

from errno import E2BIG, EEXIST, EFAULT, EINVAL, EMFILE

import pytest

from luod.uapi.liveupdate import (
    CREATE_SESSION,
    LIVEUPDATE_IOCTL_CREATE_SESSION,
    LIVEUPDATE_SESSION_GET_NAME,
    SESSION_GET_NAME,
)
from tests.emulator.model.world import READ_ONLY, Process, World, jump, number


def test_empty_name(vmm: Process, device: int) -> None:
    assert vmm.create(device, b"") == -EINVAL
    assert vmm.create(device, b"\0behind") == -EINVAL


@pytest.mark.parametrize("length", [1, 7, 8, 62, 63])
def test_names_up_to_63_bytes(vmm: Process, device: int, length: int) -> None:
    assert number(vmm.create(device, b"n" * length))


def test_64_bytes_without_nul(vmm: Process, device: int) -> None:
    assert vmm.create(device, b"n" * 64) == -EINVAL


@pytest.mark.parametrize(
    "name", [b"/", b".", b"..", b" ", b"a/b/../c", b"\n", b"\1", b"\x7f", b"\xff\xfe", b"%s%n"], ids=repr
)
def test_names_are_opaque_bytes(world: World, vmm: Process, device: int, name: bytes) -> None:
    session = number(vmm.create(device, name))
    assert vmm.get_name(session) == name.ljust(64, b"\0")
    late = jump(world, vmm)
    assert number(late.retrieve_session(late.open_device(), name))


def test_bytes_after_the_first_nul_are_ignored(vmm: Process, device: int) -> None:
    number(vmm.create(device, b"dup"))
    assert vmm.create(device, b"dup\0zzz") == -EEXIST


def test_names_are_case_sensitive(vmm: Process, device: int) -> None:
    number(vmm.create(device, b"vm"))
    assert number(vmm.create(device, b"VM"))


def test_name_of_an_open_session_is_taken_until_its_last_close(vmm: Process, device: int) -> None:
    session = number(vmm.create(device, b"vm"))
    assert vmm.create(device, b"vm") == -EEXIST
    vmm.close(session)
    assert number(vmm.create(device, b"vm"))


def test_name_is_free_again_when_the_holder_is_killed(world: World, vmm: Process, device: int) -> None:
    other = Process(world)
    number(other.create(vmm.send(device, other), b"vm"))
    assert vmm.create(device, b"vm") == -EEXIST
    other.die()
    assert number(vmm.create(device, b"vm"))


def test_a_dup_or_a_message_in_flight_keeps_the_session(world: World, vmm: Process, device: int) -> None:
    session = number(vmm.create(device, b"vm"))
    duplicate, flight = vmm.dup(session), Process(world)
    in_flight = vmm.send(session, flight)
    vmm.close(session)
    assert vmm.create(device, b"vm") == -EEXIST
    vmm.close(duplicate)
    assert vmm.create(device, b"vm") == -EEXIST
    flight.close(in_flight)
    assert number(vmm.create(device, b"vm"))


def test_name_of_an_incoming_session_is_free(world: World, vmm: Process, device: int) -> None:
    number(vmm.create(device, b"waiting"))
    number(vmm.create(device, b"retrieved"))
    late = jump(world, vmm)
    device = late.open_device()
    number(late.retrieve_session(device, b"retrieved"))
    assert number(late.create(device, b"waiting"))
    assert number(late.create(device, b"retrieved"))
    assert number(late.retrieve_session(device, b"waiting"))


def test_no_free_fd_is_checked_before_the_name(vmm: Process, device: int) -> None:
    vmm.fd_limit = len(vmm.fds)
    assert vmm.create(device, b"") == -EMFILE
    assert vmm.create(device, b"vm") == -EMFILE
    vmm.fd_limit += 1
    assert number(vmm.create(device, b"vm"))


def test_read_only_argument_undoes_the_creation(vmm: Process, device: int) -> None:
    before = dict(vmm.fds)
    assert vmm.create(device, b"vm", READ_ONLY) == -EFAULT
    assert vmm.fds == before
    assert number(vmm.create(device, b"vm"))


def test_name_is_checked_before_the_answer(vmm: Process, device: int) -> None:
    number(vmm.create(device, b"vm"))
    assert vmm.create(device, b"vm", READ_ONLY) == -EEXIST
    assert vmm.create(device, b"", READ_ONLY) == -EINVAL


def test_an_install_that_fails_undoes_the_creation(vmm: Process, device: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """RLIMIT_NOFILE is lowered between the check and the installation."""
    vmm.fd_limit = len(vmm.fds)
    with monkeypatch.context() as patch:
        patch.setattr(vmm, "has_free_fd", iter([True, False]).__next__)
        assert vmm.create(device, b"vm") == -EMFILE
    vmm.fd_limit += 1
    assert number(vmm.create(device, b"vm"))


def test_5000_sessions(world: World, vmm: Process, device: int) -> None:
    vmm.fd_limit = 6000
    sessions = [number(vmm.create(device, b"%d" % index)) for index in range(5000)]
    assert len(set(sessions)) == 5000
    late = jump(world, vmm)
    late.fd_limit = 6000
    device = late.open_device()
    assert all(number(late.retrieve_session(device, b"%d" % index)) for index in range(5000))


def test_returned_fd_is_cloexec(world: World, vmm: Process, device: int) -> None:
    session = number(vmm.create(device, b"vm"))
    assert vmm.preserve(session, vmm.memfd(), 1) == 0
    late = jump(world, vmm)
    incoming = number(late.retrieve_session(late.open_device(), b"vm"))
    memfd = number(late.retrieve(incoming, 1))
    assert vmm.cloexec[session]
    assert late.cloexec == {incoming: True, memfd: True}


@pytest.mark.parametrize("incoming", [False, True])
def test_get_name(world: World, vmm: Process, device: int, incoming: bool) -> None:
    session = number(vmm.create(device, b"seven77"))
    if incoming:
        vmm = jump(world, vmm)
        session = number(vmm.retrieve_session(vmm.open_device(), b"seven77"))
    assert vmm.get_name(session) == b"seven77".ljust(64, b"\0")
    reserved = SESSION_GET_NAME.pack(72, 1, b"")
    assert vmm.call(session, LIVEUPDATE_SESSION_GET_NAME, reserved) == -EINVAL
    assert vmm.call(session, LIVEUPDATE_SESSION_GET_NAME, SESSION_GET_NAME.pack(71, 0, b"")) == -EINVAL
    tail = SESSION_GET_NAME.pack(80, 0, b"") + b"\0\0\0\0\0\0\0\1"
    assert vmm.call(session, LIVEUPDATE_SESSION_GET_NAME, tail) == -E2BIG
    assert vmm.get_name(session, READ_ONLY) == -EFAULT
    if incoming:
        assert vmm.finish(session) == 0
        assert vmm.get_name(session) == b"seven77".ljust(64, b"\0")


@pytest.mark.parametrize(("length", "written"), [(1, 8), (7, 8), (8, 16), (9, 16), (55, 56), (56, 64), (63, 64)])
def test_get_name_writes_whole_words_only(vmm: Process, device: int, length: int, written: int) -> None:
    session = number(vmm.create(device, b"n" * length))
    expected = (b"n" * length).ljust(written, b"\0").ljust(64, b"\xee")
    assert vmm.get_name(session, field=b"\xee" * 64) == expected


def test_create_through_an_inherited_fd_needs_no_capability(world: World, vmm: Process, device: int) -> None:
    user = Process(world)
    user.capabilities.clear()
    session = number(user.create(vmm.send(device, user), b"vm"))
    assert user.preserve(session, user.memfd(), 1) == 0


def test_closing_the_device_leaves_its_sessions(world: World, vmm: Process, device: int) -> None:
    session = number(vmm.create(device, b"vm"))
    vmm.close(device)
    assert vmm.preserve(session, vmm.memfd(b"ram"), 1) == 0
    late = jump(world, vmm)
    assert number(late.retrieve_session(late.open_device(), b"vm"))


def test_creation_ignores_what_is_behind_the_name(vmm: Process, device: int) -> None:
    argument = CREATE_SESSION.pack(72, 0, b"vm\0" + b"\xee" * 61)
    assert vmm.call(device, LIVEUPDATE_IOCTL_CREATE_SESSION, argument) == 0
    assert vmm.create(device, b"vm") == -EEXIST
