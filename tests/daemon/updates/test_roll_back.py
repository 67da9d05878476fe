"""The end of an update without a kexec: participants are told first, and a defect ends serve. No machine.

The coordinator, the followers and the state of luod are real.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from types import SimpleNamespace
from typing import Any, cast

import pytest

from luod.daemon.log import Log
from luod.daemon.run_state import Run, RunState
from luod.daemon.updates.coordinator import Coordinator
from luod.daemon.updates.follower import Follower
from luod.daemon.updates.update import Updater
from luod.ipc.server.peer import Peer
from luod.ipc.types.updates import DeclaredFile, DeclaredSession, Event, FrozenDevice

PEER = Peer(1000, 1000, 42, None)
DEVICE = DeclaredFile(1, "gpu", "vfio", 0, 0, 0, "preserved")


class Update:
    """An update in JUMPING with one participant. `steps` are the order of what its roll-back did."""

    def __init__(self) -> None:
        self.steps: list[str] = []
        self.failed: list[BaseException] = []
        log = Log("serve", "error")
        self.run = Run(log)
        self.run.enter(RunState.CHECKING)
        self.run.enter(RunState.STARTING)
        self.coordinator = Coordinator("an-update", "direct", 30.0, False, [], self.run, log)
        self.one = Follower(1, "secret", "one", PEER, (DeclaredSession("one", [DEVICE]),))
        self.coordinator.begin([self.one], 1)
        self.coordinator.vote(self.one, "preparing", "ready", None)
        self.run.enter(RunState.PREPARED)
        self.coordinator.freeze()
        self.coordinator.vote(self.one, "freezing", "ready", None)
        self.run.enter(RunState.FROZEN)
        self.coordinator.jump(1)
        self.participants = SimpleNamespace(coordinator=self.coordinator, state="idle")
        self.recorder = SimpleNamespace(begin=lambda _current: self.steps.append("recorded"))
        self.undo = SimpleNamespace(undo=self.done("undone"), needed=False)
        self.updater = Updater(
            cast(
                "Any",
                SimpleNamespace(registry=SimpleNamespace(all_outgoing=[], stay=lambda: ()), broken=None, fds=self),
            ),
            cast("Any", None),
            cast(
                "Any", SimpleNamespace(changes=SimpleNamespace(still=self.done("still")), forget=self.done("forgotten"))
            ),
            cast("Any", self.participants),
            cast("Any", self.recorder),
            cast("Any", None),
            cast("Any", SimpleNamespace(resume=lambda: None)),
            cast("Any", self.undo),
            cast("Any", None),
            self.run,
            log,
            stuck_seconds=1.0,
            failed=self.failed.append,
        )

    def done(self, step: str) -> Callable[..., Coroutine[Any, Any, None]]:
        async def do(*_: Any) -> None:
            self.steps.append(step)

        return do

    async def drop(self, *_: str) -> None:
        self.steps.append("dropped")

    async def roll_back(self, reboot: Any = None) -> None:
        await self.updater._roll_back(self.coordinator, reboot, None)


async def cancelled(follower: Follower) -> Event:
    """Returns the event `cancelled` of the follower. Takes those before it."""
    async with asyncio.timeout(30):
        while (event := await follower.events.next()).event != "cancelled":
            follower.events.sent()
    return event


def test_a_follower_that_came_back_during_the_kexec_is_told_that_there_is_none() -> None:
    async def body() -> Event:
        update = Update()
        again = Follower(2, "another", "one", PEER)
        update.coordinator.wait_for_the_end(again)
        update.coordinator.came_back("the kernel refuses")
        await update.roll_back()
        return await cancelled(again)

    event = asyncio.run(body())
    assert (event.update, event.state) == ("an-update", "idle")
    assert "the kernel refuses" in (event.reason or "")
    assert event.frozen_devices is None  # its declaration went with its connection


def test_participants_do_not_wait_for_the_end_of_a_process_at_its_gate() -> None:
    """Its sync of all file systems may take long, and cannot be killed."""

    async def body() -> list[str]:
        update = Update()
        update.coordinator.end("a veto")
        syncing = asyncio.Event()
        reboot = SimpleNamespace(kill=lambda: update.steps.append("killed"), close=syncing.wait)
        rolling = asyncio.ensure_future(update.roll_back(reboot))
        await cancelled(update.one)
        assert update.run.is_in(RunState.IDLE)
        syncing.set()
        await rolling
        return update.steps

    assert asyncio.run(body()) == ["killed", "still", "forgotten", "dropped", "recorded", "undone"]


def test_a_timeline_that_cannot_be_recorded_does_not_keep_a_guest_paused() -> None:
    async def body() -> Event:
        update = Update()
        update.coordinator.came_back("the kernel refuses")

        def begin(_current: Any) -> None:
            raise ValueError("a defect")

        update.recorder.begin = begin
        with pytest.raises(ValueError, match="a defect"):
            await update.roll_back()
        return await cancelled(update.one)

    assert asyncio.run(body()).frozen_devices == [FrozenDevice("one", 1, "gpu")]


def test_a_take_over_that_fails_ends_serve_and_shows_where(capfd: pytest.CaptureFixture[str]) -> None:
    """The next serve takes over; otherwise no task would wait for reboot(2), and guests would stay paused."""

    async def body() -> list[BaseException]:
        update = Update()
        update.updater._registry = cast("Any", None)
        update.updater.take_over()
        task = update.updater._task
        assert task is not None
        await asyncio.wait((task,))
        await asyncio.sleep(0)
        return update.failed

    (error,) = asyncio.run(body())
    assert isinstance(error, AttributeError)
    assert "_await_reboot:" in capfd.readouterr().err
