"""What the operator is told of an update, without a machine."""

from __future__ import annotations

import asyncio

import pytest

from luod.daemon.log import Log
from luod.daemon.updates.coordinator import Barrier
from luod.daemon.updates.follower import Follower
from luod.ipc.server.peer import Peer
from luod.ipc.types.updates import DeclaredSession


def followers() -> list[Follower]:
    peer = Peer(1000, 1000, 42, None)
    names = ("one", "two")
    return [Follower(id, f"token {id}", name, peer, (DeclaredSession(name, []),)) for id, name in enumerate(names)]


@pytest.fixture
def barrier() -> Barrier:
    barrier = Barrier("an-update", 30.0, True, ["orphan"], Log("test", "error"))
    barrier.begin(followers(), 1)
    return barrier


def test_one_that_is_awaited_shows_for_how_long_it_has_been(barrier: Barrier) -> None:
    barrier.vote(barrier.members[0], "preparing", "ready", None)
    shown = {each.name: each for each in barrier.progress().participants}
    assert shown["one"].standing == "ready"
    assert shown["two"].standing == "awaited"
    assert shown["two"].seconds > shown["one"].seconds


def test_a_cancelled_update_tears_nothing(barrier: Barrier) -> None:
    barrier.gone(barrier.members[1])
    assert barrier.progress().torn == ["orphan", "two"]
    barrier.cancel("the operator aborted it")
    assert barrier.progress().torn == []


def test_bystanders_that_are_late_are_one_line_in_the_log(capfd: pytest.CaptureFixture[str]) -> None:
    """Anybody may follow, so that each of them must not cost a line."""
    peer = Peer(1000, 1000, 42, None)
    bystanders = [Follower(id, f"token {id}", f"bystander-{id}", peer) for id in range(100)]
    barrier = Barrier("an-update", 0.0, False, [], Log("test", "info"))
    barrier.begin(bystanders, 1)

    asyncio.run(barrier.settle())

    lines = [line for line in capfd.readouterr().err.splitlines() if "did not vote in time" in line]
    assert len(lines) == 1
    assert "participants=100" in lines[0]
    assert "bystander-0, bystander-1" in lines[0]
