"""PID 1's fd store has every fd of the supervisor, which finds them again after a restart and a kexec."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from luod.daemon.supervisor import init_store, notify
from luod.daemon.supervisor.init_store import InitStore
from luod.daemon.supervisor.notify import ServiceManager
from luod.linux import Fd
from luod.testing import eventually
from tests.daemon.supervisor.pid_1 import Pid1, close, inode

BOOT = "11111111-2222-3333-4444-555555555555"
NEXT = "99999999-2222-3333-4444-555555555555"
ROOM = 6


@pytest.fixture
def pid_1(tmp_path: Path) -> Iterator[Pid1]:
    with Pid1(tmp_path, ROOM) as pid_1:
        yield pid_1


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shortens the wait for PID 1."""
    monkeypatch.setattr(init_store, "TOTAL_SECONDS", 0.05)
    monkeypatch.setattr(init_store, "_LEAST_SECONDS", 0.05)


def store_of(pid_1: Pid1, boot: str = BOOT) -> InitStore:
    return InitStore(pid_1.manager, ROOM, boot)


def file() -> Fd:
    return Fd(os.memfd_create("file"))


def test_a_restarted_luod_gets_every_fd_under_its_name(pid_1: Pid1) -> None:
    store = store_of(pid_1)
    with file() as session, file() as registry:
        store.put("outgoing.vm", session)
        store.put("registry.x", registry)
        assert store.settle() == ""

        found = store_of(pid_1).recover(pid_1.given())

        assert {name: inode(fd) for name, fd in found.items()} == {
            "outgoing.vm": inode(session),
            "registry.x": inode(registry),
        }
        close(found)


def test_a_session_of_the_last_boot_is_incoming_and_other_files_of_it_are_closed(pid_1: Pid1) -> None:
    store = store_of(pid_1)
    with file() as session, file() as registry, file() as old:
        for name, fd in (("outgoing.vm", session), ("registry.x", registry), ("incoming.old", old)):
            store.put(name, fd)
        store.put("registry.y", registry)

    given = pid_1.given()
    found = store_of(pid_1, NEXT).recover(given)

    assert close(found) == {"incoming.vm"}
    assert all(fd.closed for fd in given.values())
    assert close(pid_1.given()) == {"11111111.outgoing.vm"}


def test_a_carried_session_leaves_the_store_under_the_name_that_it_has_there(pid_1: Pid1) -> None:
    first = store_of(pid_1)
    with file() as session:
        first.put("outgoing.vm", session)
    second = store_of(pid_1, NEXT)
    found = second.recover(pid_1.given())

    second.remove("incoming.vm")

    assert not pid_1.given()
    close(found)


def test_a_file_takes_the_place_of_another_of_its_name(pid_1: Pid1) -> None:
    store = store_of(pid_1)
    with file() as one, file() as other:
        store.put("outgoing.vm", one)
        store.put("outgoing.vm", other)

        found = pid_1.given()
        assert inode(found["11111111.outgoing.vm"]) == inode(other)
        close(found)


def test_it_says_that_it_is_full_before_pid_1_would_drop_an_fd(pid_1: Pid1) -> None:
    store = store_of(pid_1)
    files = {f"outgoing.{number}": file() for number in range(ROOM)}
    for name, session in files.items():
        assert store.has_room()
        store.put(name, session)

    assert not store.has_room()
    store.remove("outgoing.1")
    assert store.has_room()
    close(files)


@pytest.mark.parametrize("names", [("held.1", "held.2", "held.3"), ("manifest.a", "held.2", "process.outgoing.vm")])
def test_an_open_file_with_several_names_has_all_of_them_after_a_restart(pid_1: Pid1, names: tuple[str, ...]) -> None:
    store = store_of(pid_1)
    with file() as shared, file() as own:
        store.put("held.0", own)
        copies = {name: shared.duplicate() for name in names}
        for name, copy in copies.items():
            store.put(name, copy)
        assert store.settle() == ""

        found = store_of(pid_1).recover(pid_1.given())

        assert {name: inode(fd) for name, fd in found.items()} == {
            "held.0": inode(own),
            **dict.fromkeys(names, inode(shared)),
        }
        close(found)
        close(copies)


@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize("gone", [["held.1"], ["held.2"], ["held.1", "held.2"], ["held.3", "held.1"]])
def test_an_open_file_that_loses_some_of_its_names_keeps_the_others(
    pid_1: Pid1, gone: list[str], restarted: bool
) -> None:
    names = {"held.1", "held.2", "held.3"}
    store, copies = store_of(pid_1), {}
    with file() as shared:
        for name in sorted(names):
            copies[name] = shared.duplicate()
            store.put(name, copies[name])
        if restarted:
            given = pid_1.given()
            close(copies)
            store = store_of(pid_1)
            copies = store.recover(given)
        for name in gone:
            store.remove(name)
            copies.pop(name).close()
        assert store.settle() == ""

        found = store_of(pid_1).recover(pid_1.given())

        assert {name: inode(fd) for name, fd in found.items()} == dict.fromkeys(names - set(gone), inode(shared))
        close(found)
    close(copies)


def test_a_name_whose_file_pid_1_has_lost_is_not_kept_for_another(pid_1: Pid1) -> None:
    store = store_of(pid_1)
    with file() as shared, shared.duplicate() as again:
        store.put("held.1", shared)
        store.put("held.2", again)
        pid_1.manager.remove("11111111.held.1")

        found = store_of(pid_1).recover(pid_1.given())

        assert (found, pid_1.given()) == ({}, {})


def test_a_removed_session_may_be_open_for_a_moment_and_another_one_is_not(pid_1: Pid1) -> None:
    store = store_of(pid_1)
    with file() as session, file() as other:
        store.put("outgoing.vm", session)
        store.put("outgoing.other", other)
        store.remove("outgoing.vm")

        assert store.may_have("outgoing.vm")
        assert store.settle() == ""

        assert store.may_have("outgoing.vm")
        assert not store.may_have("outgoing.other")
        eventually(lambda: not store.may_have("outgoing.vm"), describe="PID 1 has had time to close it")


def test_a_pid_1_that_does_not_answer_is_awaited_once(pid_1: Pid1, impatient: None) -> None:
    store = store_of(pid_1)
    pid_1.stop()
    with file() as one, file() as other:
        store.put("outgoing.one", one)
        assert store.settle() == notify.NO_ANSWER
        began = time.monotonic()
        store.put("outgoing.other", other)
        assert (store.settle(), store.complete, store.missing) == (notify.NO_ANSWER, False, 2)
        assert time.monotonic() - began < 0.05


def test_all_waits_for_a_pid_1_that_is_stuck_again_and_again_are_bounded_together(
    pid_1: Pid1, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(init_store, "TOTAL_SECONDS", 0.6)
    store, waited = store_of(pid_1), 0.0
    files = {f"outgoing.{number}": file() for number in range(4)}
    for name, fd in files.items():
        pid_1.stop()
        store.put(name, fd)
        began = time.monotonic()
        assert store.settle() == notify.NO_ANSWER
        waited += time.monotonic() - began
        pid_1.go_on()
        eventually(store.heal, describe="PID 1's store is up to date")

    assert waited < 4 * 0.6  # 0.6 s once, then 0.1 s each
    close(files)


def test_a_stuck_pid_1_delays_paused_guests_by_a_quarter_of_a_second(pid_1: Pid1) -> None:
    store = store_of(pid_1)
    store.blackout(lasts=True)
    pid_1.stop()
    with file() as session:
        store.put("outgoing.vm#1", session)
        began = time.monotonic()

        assert store.settle() == notify.NO_ANSWER

        assert time.monotonic() - began < init_store.TOTAL_SECONDS / 2


def test_nothing_is_awaited_where_nothing_was_sent(pid_1: Pid1) -> None:
    store = store_of(pid_1)
    with file() as session:
        store.put("outgoing.vm", session)
        assert store.settle() == ""
        barriers = pid_1.barriers

        assert store.settle() == ""

        assert pid_1.barriers == barriers


@pytest.mark.parametrize("reading", [False, True])
def test_pid_1_gets_all_that_it_missed_when_it_answers_again(pid_1: Pid1, impatient: None, reading: bool) -> None:
    """Also what was changed while it did not answer. `reading`: its queue has room meanwhile."""
    store = store_of(pid_1)
    files = {name: file() for name in ("outgoing.kept", "outgoing.gone", "outgoing.late", "held.1", "held.2")}
    files["held.2"].close()
    files["held.2"] = files["held.1"].duplicate()
    store.put("outgoing.kept", files["outgoing.kept"])
    store.put("outgoing.gone", files["outgoing.gone"])
    assert store.settle() == ""

    pid_1.stop()
    store.put("held.1", files["held.1"])
    assert store.settle()
    store.remove("outgoing.gone")
    store.put("outgoing.late", files["outgoing.late"])
    for _ in range(100 if reading else 0):
        store.heal()
    store.put("held.2", files["held.2"])
    pid_1.go_on()

    eventually(store.heal, describe="PID 1's store is up to date")
    assert (store.complete, store.missing, store.settle()) == (True, 0, "")
    files.pop("outgoing.gone").close()
    found = store_of(pid_1).recover(pid_1.given())
    assert {name: inode(fd) for name, fd in found.items()} == {name: inode(fd) for name, fd in files.items()}
    close(found)
    close(files)


def test_a_report_that_cannot_be_sent_is_a_fault_until_it_can(tmp_path: Path) -> None:
    store = InitStore(ServiceManager(f"{tmp_path}/notify"), ROOM, BOOT)
    with file() as session:
        store.put("outgoing.vm", session)
        assert (store.settle(), store.missing) == ("No such file or directory", 1)
        assert not store.heal()

        with Pid1(tmp_path, ROOM) as pid_1:
            eventually(store.heal, describe="PID 1's store is up to date")
            assert close(pid_1.given()) == {"11111111.outgoing.vm"}


def test_h8_what_pid_1_closed_for_a_lower_maximum_is_missing_and_stored_again_when_there_is_room(pid_1: Pid1) -> None:
    store = store_of(pid_1)
    names = ("outgoing.luod", "registry.x", "outgoing.a", "outgoing.b")
    files = {name: file() for name in names}
    for name, fd in files.items():
        store.put(name, fd)
    assert store.settle() == ""

    pid_1.lower(2)
    store.counted(len(pid_1.kept), pid_1.room, store.changes)
    assert (store.complete, store.missing, store.has_room()) == (False, 2, False)
    assert store.problem == "its store for luod's unit has 2 of 4 files (FileDescriptorStoreMax=2)"

    pid_1.room = ROOM
    store.counted(len(pid_1.kept), pid_1.room, store.changes)
    eventually(store.heal, describe="PID 1 was sent what it lacks")
    assert store.has_room()
    assert not store.complete  # until PID 1 was asked again
    store.counted(len(pid_1.kept), pid_1.room, store.changes)
    assert (store.complete, store.missing, store.problem) == (True, 0, "")
    found = store_of(pid_1).recover(pid_1.given())
    assert {name: inode(fd) for name, fd in found.items()} == {name: inode(fd) for name, fd in files.items()}
    close(found)
    close(files)


def test_where_there_is_room_for_some_the_registry_is_stored_first(pid_1: Pid1) -> None:
    store = store_of(pid_1)
    files = {name: file() for name in ("outgoing.a", "held.1", "registry.x")}
    for name, fd in files.items():
        store.put(name, fd)
    assert store.settle() == ""
    pid_1.lower(1)
    pid_1.room = 2

    store.counted(1, 2, store.changes)
    eventually(store.heal, describe="PID 1 was sent what it lacks")

    assert close(pid_1.given()) == {"11111111.outgoing.a", "11111111.registry.x"}
    close(files)


def test_a_further_name_of_a_file_is_stored_again_once(pid_1: Pid1) -> None:
    store = store_of(pid_1)
    with file() as shared, shared.duplicate() as again, file() as other:
        for name, fd in (("held.1", shared), ("held.2", again), ("held.3", other)):
            store.put(name, fd)
        assert store.settle() == ""
        pid_1.lower(2)
        pid_1.room = ROOM

        store.counted(2, ROOM, store.changes)
        eventually(store.heal, describe="PID 1 was sent what it lacks")

        assert len(pid_1.kept) == store.size == 3
        assert close(store_of(pid_1).recover(pid_1.given())) == {"held.1", "held.2", "held.3"}


def test_a_count_of_another_moment_tells_the_maximum_only(pid_1: Pid1) -> None:
    store = store_of(pid_1)
    with file() as one, file() as other:
        store.put("outgoing.one", one)
        asked = store.changes
        store.put("outgoing.other", other)

        store.counted(1, 2, asked)

        assert (store.problem, store.has_room()) == ("", False)


def test_a_maximum_of_none_is_not_the_absence_of_a_store(pid_1: Pid1) -> None:
    store = store_of(pid_1)
    with file() as session:
        store.put("outgoing.vm", session)
        pid_1.lower(0)

        store.counted(0, 0, store.changes)

        assert (store.missing, store.has_room()) == (1, False)


def test_without_a_store_there_is_always_room_and_nothing_is_sent(pid_1: Pid1) -> None:
    store = InitStore(pid_1.manager, 0, BOOT)
    with file() as session:
        store.put("outgoing.vm", session)

    assert store.has_room()
    assert (store.settle(), pid_1.barriers, pid_1.kept) == ("", 0, {})
