"""Reports of an update to the operator, without a machine."""

from __future__ import annotations

import asyncio

import pytest

from luod.daemon.log import Log
from luod.daemon.run_state import Run, RunState
from luod.daemon.updates.coordinator import Coordinator
from luod.daemon.updates.follower import Follower
from luod.ipc.server.peer import Peer
from luod.ipc.types.updates import DeclaredFile, DeclaredSession


def followers() -> list[Follower]:
    peer = Peer(1000, 1000, 42, None)
    names = ("one", "two")
    return [Follower(id, f"token {id}", name, peer, (DeclaredSession(name, []),)) for id, name in enumerate(names)]


def starting() -> Run:
    """Returns the run state after an update is accepted."""
    run = Run(Log("test", "error"))
    run.enter(RunState.CHECKING)
    run.enter(RunState.STARTING)
    return run


@pytest.fixture
def coordinator() -> Coordinator:
    coordinator = Coordinator("an-update", "direct", 30.0, True, ["orphan"], starting(), Log("test", "error"))
    coordinator.begin(followers(), 1)
    return coordinator


def test_one_that_is_awaited_shows_for_how_long_it_has_been(coordinator: Coordinator) -> None:
    coordinator.vote(coordinator.members[0], "preparing", "ready", None)
    shown = {each.name: each for each in coordinator.progress().participants}
    assert shown["one"].standing == "ready"
    assert shown["two"].standing == "awaited"
    assert shown["two"].seconds > shown["one"].seconds


def test_a_cancelled_update_tears_nothing(coordinator: Coordinator) -> None:
    coordinator.gone(coordinator.members[1])
    assert coordinator.progress().torn == ("orphan", "two")
    coordinator.cancel("the operator aborted it")
    assert coordinator.progress().torn == ()


def test_observers_that_are_late_are_one_line_in_the_log(capfd: pytest.CaptureFixture[str]) -> None:
    """Anybody may follow, so that each of them must not cost a line."""
    peer = Peer(1000, 1000, 42, None)
    observers = [Follower(id, f"token {id}", f"observer-{id}", peer) for id in range(100)]
    coordinator = Coordinator("an-update", "direct", 0.0, False, [], starting(), Log("test", "info"))
    coordinator.begin(observers, 1)

    asyncio.run(coordinator.settle())

    lines = [line for line in capfd.readouterr().err.splitlines() if "did not vote in time" in line]
    assert len(lines) == 1
    assert "participants=100" in lines[0]
    assert "observer-0, observer-1" in lines[0]


@pytest.mark.parametrize("skip_unready", [False, True])
def test_nobody_is_granted_before_one_of_an_earlier_update_has_ended_to_preserve(skip_unready: bool) -> None:
    """H2. With --skip-unready the others do not wait: they would be lost, if it never ends."""

    async def body() -> list[bool]:
        one, two = followers()
        two.sessions = (DeclaredSession("two", [DeclaredFile(1, "ram", "memfd", 4096, 4096, 0, "preparing")]),)
        coordinator = Coordinator("an-update", "direct", 30.0, skip_unready, [], starting(), Log("test", "error"))
        coordinator.preserving = one
        coordinator.begin([one, two], 1)
        coordinator.declared(two)
        settling = asyncio.ensure_future(coordinator.settle())
        await asyncio.sleep(0)
        seen = [coordinator.has_grant(two)]
        coordinator.answered(one)
        while not coordinator.has_grant(two):
            await asyncio.sleep(0)
        seen.append(coordinator.has_grant(two))
        coordinator.cancel("the operator aborted it")
        await settling
        assert coordinator.preserving is two
        return seen

    assert asyncio.run(asyncio.wait_for(body(), 30.0)) == [skip_unready, True]
