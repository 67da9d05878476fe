"""PID 1's fd store has every fd of the supervisor, which finds them again after a restart and a kexec."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from luod.daemon.supervisor.init_store import InitStore
from luod.daemon.supervisor.notify import ServiceManager
from luod.linux import Fd

BOOT = "11111111-2222-3333-4444-555555555555"
NEXT = "99999999-2222-3333-4444-555555555555"


class Manager(ServiceManager):
    """PID 1's store as a dict. It drops what does not fit, as PID 1 does."""

    def __init__(self, room: int) -> None:
        super().__init__("")
        self.room = room
        self.kept: dict[str, Fd] = {}
        self.settled = 0
        self.fault = ""

    def store(self, name: str, fd: int) -> str:
        if len(self.kept) < self.room:
            self.kept[name] = Fd(os.dup(fd))
        return ""

    def remove(self, name: str) -> str:
        if name in self.kept:
            self.kept.pop(name).close()
        return ""

    def settle(self) -> str:
        self.settled += 1
        return self.fault

    def given(self) -> dict[str, Fd]:
        """Returns what luod gets at its next start."""
        return {name: fd.duplicate() for name, fd in self.kept.items()}


@pytest.fixture
def manager() -> Iterator[Manager]:
    manager = Manager(3)
    yield manager
    for fd in manager.kept.values():
        fd.close()


def file() -> Fd:
    return Fd(os.memfd_create("file"))


def close(found: dict[str, Fd]) -> set[str]:
    """Closes the fds, and returns their names."""
    for fd in found.values():
        fd.close()
    return set(found)


def test_a_restarted_luod_gets_every_fd_under_its_name(manager: Manager) -> None:
    store = InitStore(manager, 3, BOOT)
    with file() as session, file() as registry:
        store.put("outgoing.vm", session)
        store.put("registry.x", registry)
    assert store.settle() == ""

    found = InitStore(manager, 3, BOOT).recover(manager.given())

    assert close(found) == {"outgoing.vm", "registry.x"}


def test_a_session_of_the_last_boot_is_incoming_and_other_files_of_it_are_closed(manager: Manager) -> None:
    store = InitStore(manager, 3, BOOT)
    with file() as session, file() as registry, file() as old:
        for name, fd in (("outgoing.vm", session), ("registry.x", registry), ("incoming.old", old)):
            store.put(name, fd)

    given = manager.given()
    found = InitStore(manager, 3, NEXT).recover(given)

    assert close(found) == {"incoming.vm"}
    assert given["11111111.registry.x"].closed
    assert given["11111111.incoming.old"].closed
    assert set(manager.kept) == {"11111111.outgoing.vm"}


def test_a_carried_session_leaves_the_store_under_the_name_that_it_has_there(manager: Manager) -> None:
    first = InitStore(manager, 3, BOOT)
    with file() as session:
        first.put("outgoing.vm", session)
    second = InitStore(manager, 3, NEXT)
    close(second.recover(manager.given()))

    second.remove("incoming.vm")

    assert not manager.kept


def test_a_file_takes_the_place_of_another_of_its_name(manager: Manager) -> None:
    store = InitStore(manager, 3, BOOT)
    with file() as one, file() as other:
        store.put("outgoing.vm", one)
        store.put("outgoing.vm", other)

        assert os.path.sameopenfile(manager.kept["11111111.outgoing.vm"].fileno(), other.fileno())


def test_it_says_that_it_is_full_before_pid_1_would_drop_an_fd(manager: Manager) -> None:
    store = InitStore(manager, 3, BOOT)
    with file() as session:
        for number in range(3):
            assert store.has_room()
            store.put(f"outgoing.{number}", session)

    assert not store.has_room()
    store.remove("outgoing.1")
    assert store.has_room()


def test_a_copy_that_may_be_missing_is_a_fault(manager: Manager) -> None:
    manager.fault = "the service manager does not answer"
    store = InitStore(manager, 3, BOOT)
    with file() as session:
        store.put("outgoing.vm", session)

    assert store.settle() == "the service manager does not answer"


def test_without_a_store_there_is_always_room_and_nothing_is_sent(manager: Manager) -> None:
    store = InitStore(manager, 0, BOOT)
    with file() as session:
        store.put("outgoing.vm", session)

    assert store.has_room()
    assert (store.settle(), manager.settled, manager.kept) == ("", 0, {})
