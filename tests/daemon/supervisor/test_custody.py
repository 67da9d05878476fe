"""The supervisor's fds and PID 1's copies of them, with a PID 1 of the tests. No machine."""

from __future__ import annotations

import errno
import os
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from luod.daemon.log import Log
from luod.daemon.supervisor import init_store, notify
from luod.daemon.supervisor.custody import Custody
from luod.daemon.supervisor.init_store import InitStore
from luod.daemon.supervisor.requests import Message, Requests
from luod.errors import KernelRefused, LiveUpdateBusy, SessionExists
from luod.linux import Fd
from luod.testing import eventually
from tests.daemon.supervisor.pid_1 import Pid1, close


@pytest.fixture
def pid_1(tmp_path: Path) -> Iterator[Pid1]:
    with Pid1(tmp_path, 3) as pid_1:
        yield pid_1


@pytest.fixture
def custody(pid_1: Pid1) -> Custody:
    return Custody(InitStore(pid_1.manager, 3, "11111111"), Log("supervisor", "error"))


def asked(custody: Custody, **request: str) -> Mapping[str, object]:
    """Returns the answer to a request of serve."""
    return Requests(custody).execute(request, Message(deque(), deque(), 0.0))


def test_a_file_that_loses_one_of_its_names_is_still_in_pid_1s_store(custody: Custody, pid_1: Pid1) -> None:
    """As the registry's memory, when a damaged one gets another name."""
    file = Fd(os.memfd_create("registry"))
    custody.keep("registry.old", file)
    custody.keep("registry.new", file.duplicate())

    custody.forget("registry.old")

    assert close(pid_1.given()) == {"11111111.registry.new"}
    custody.forget("registry.new")
    assert pid_1.given() == {}


@pytest.fixture
def unanswered(custody: Custody, pid_1: Pid1, monkeypatch: pytest.MonkeyPatch) -> Custody:
    """Returns `custody` with a session, outgoing.vm, that PID 1 has not stored: it is stuck."""
    monkeypatch.setattr(init_store, "TOTAL_SECONDS", 0.05)
    pid_1.stop()
    custody.keep("outgoing.vm", Fd(os.memfd_create("session")))
    custody.settle()
    return custody


def test_a_pid_1_that_does_not_answer_is_a_fault(unanswered: Custody) -> None:
    assert asked(unanswered, COPIES="1") == {
        "ERRNO": 0,
        "FAULT": notify.NO_ANSWER,
        "MISSING": 1,
        "SIZE": 1,
        "ROOM": 3,
        "CHANGES": 1,
    }
    unanswered.forget("outgoing.vm")


def test_a_pid_1_that_answers_again_keeps_all_at_luods_end(unanswered: Custody, pid_1: Pid1) -> None:
    assert unanswered.copies.fault == notify.NO_ANSWER
    pid_1.go_on()

    unanswered.let_go()

    assert unanswered.copies.complete
    assert close(pid_1.given()) == {"11111111.outgoing.vm"}
    unanswered.forget("outgoing.vm")


def test_a_copy_that_fails_for_lack_of_memory_is_a_fault_and_the_session_is_held(
    custody: Custody, pid_1: Pid1, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel gives a session once: after an error it would be refused to its VMM as taken."""

    def without_memory(*_arguments: object, **_options: object) -> str:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(notify.ServiceManager, "store", without_memory)
        custody.keep("incoming.vm", Fd(os.memfd_create("session")))

    assert list(custody.fds) == ["incoming.vm"]
    assert (custody.copies.fault, custody.copies.missing) == ("MemoryError()", 1)
    eventually(custody.copies.heal, describe="PID 1 has the copy")
    assert close(pid_1.given()) == {"11111111.incoming.vm"}
    custody.forget("incoming.vm")


def test_h8_a_store_that_was_made_smaller_takes_no_session_and_says_what_to_raise(
    custody: Custody, pid_1: Pid1
) -> None:
    for name in ("outgoing.a", "outgoing.b"):
        custody.keep(name, Fd(os.memfd_create("session")))
    custody.settle()
    pid_1.lower(1)
    counted = {"COPIES": "1", "STORED": "1", "ROOM": "1", "CHANGES": str(custody.copies.changes)}

    told = asked(custody, **counted)
    answer = asked(custody, CREATE="c")

    assert (told["MISSING"], told["SIZE"], told["ROOM"]) == (1, 2, 1)
    assert "has 1 of 2 files (FileDescriptorStoreMax=1)" in str(told["FAULT"])
    assert answer["ERRNO"] == errno.EMFILE
    assert "no room" in str(answer["MEANING"])
    assert "raise FileDescriptorStoreMax= of luod.service" in str(answer["HINT"])
    for name in ("outgoing.a", "outgoing.b"):
        custody.forget(name)


def test_a_taken_name_is_marked_as_free_soon_only_just_after_its_removal(custody: Custody) -> None:
    requests = Requests(custody)

    def is_closing(error: KernelRefused, **request: str) -> bool:
        return "CLOSING" in requests.refused(request, error)

    taken = SessionExists(errno.EEXIST, "CREATE_SESSION", "")
    custody.keep("outgoing.vm", Fd(os.memfd_create("session")))
    assert not is_closing(taken, CREATE="vm")

    custody.forget("outgoing.vm")
    custody.settle()

    assert is_closing(taken, CREATE="vm")
    assert is_closing(taken, PROBE="vm")
    assert not is_closing(taken, CREATE="other")
    assert not is_closing(LiveUpdateBusy(errno.EBUSY, "open", ""), CREATE="vm")
