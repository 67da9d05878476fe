"""The last steps of an update, and its end without a kexec: participants are told first. No machine.

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
from luod.daemon.updates import stages
from luod.daemon.updates.coordinator import Coordinator
from luod.daemon.updates.follower import Follower
from luod.daemon.updates.progress import ProgressFeed
from luod.daemon.updates.stages import Stages
from luod.errors import Refused
from luod.ipc.server.peer import Peer
from luod.ipc.types.updates import DeclaredFile, DeclaredSession, Event, FrozenDevice

PEER = Peer(1000, 1000, 42, None)
DEVICE = DeclaredFile(1, "gpu", "vfio", 0, 0, 0, "preserved")


class Update:
    """An update with one participant, in JUMPING unless it is only `frozen`. `steps` are the order of what it did."""

    def __init__(self, *, frozen: bool = False) -> None:
        self.steps: list[str] = []
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
        if not frozen:
            self.coordinator.jump(1)
        self.participants = cast("Any", SimpleNamespace(coordinator=self.coordinator, state="idle", followers=[]))
        self.recorder = cast("Any", SimpleNamespace(begin=lambda _current: self.steps.append("recorded")))
        self.image = cast("Any", SimpleNamespace(count=7, replaced=False, load_again=self.done("load")))
        self.image.certain = lambda _moment: []
        registry = SimpleNamespace(all_outgoing=[], stay=lambda: (), depart=lambda *_: self.steps.append("departed"))
        disk: Any = SimpleNamespace(
            before_kexec=self.done("written"),
            take_back=self.done("taken back"),
            end=self.done("serve writes"),
            take_over=lambda: None,
        )
        holdings: Any = SimpleNamespace(registry=registry, broken=None, fds=SimpleNamespace(drop=self.done("dropped")))
        sessions: Any = SimpleNamespace(
            changes=SimpleNamespace(still=self.done("still")), forget=self.done("forgotten")
        )
        inhibitor: Any = SimpleNamespace(resume=lambda: None)
        undo: Any = SimpleNamespace(
            undo=self.done("undone"),
            needed=False,
            loads=lambda: self.steps.append("loads"),
            loaded=lambda _count: self.steps.append("loaded"),
        )
        unused: Any = None
        self.stages = Stages(
            holdings,
            self.image,
            sessions,
            self.participants,
            self.recorder,
            unused,
            inhibitor,
            undo,
            disk,
            self.run,
            log,
            stuck_seconds=1.0,
        )

    def done(self, step: str) -> Callable[..., Coroutine[Any, Any, None]]:
        async def do(*_: Any) -> None:
            self.steps.append(step)

        return do

    async def call_reboot(self, reboot: Any) -> None:
        self.coordinator.feed.left()
        await self.stages._call_reboot(stages.Update(self.coordinator, (), detach=False), reboot)

    async def roll_back(self, reboot: Any = None) -> None:
        update = stages.Update(self.coordinator, (), detach=False)
        update.reboot = reboot
        await self.stages._roll_back(update)


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
    """One that a disk blocks cannot be killed."""

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

    assert asyncio.run(body()) == [
        *("killed", "still", "forgotten", "dropped", "taken back", "recorded", "serve writes", "undone")
    ]


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


def test_an_image_is_unloaded_after_a_load_that_a_cancelled_update_has_left_behind() -> None:
    """A load that ends after it would leave an image that the next `systemctl reboot` starts (H13)."""

    async def body() -> list[str]:
        update = Update()
        ending = asyncio.Event()
        update.image.load_again = ending.wait
        update.stages._loading()
        update.coordinator.end("a veto")
        rolling = asyncio.ensure_future(update.roll_back())
        await cancelled(update.one)
        ending.set()
        await rolling
        return update.steps

    steps = asyncio.run(body())
    assert steps.index("loaded") < steps.index("undone")


class Reboot:
    """A reboot process that ends with a report. `loads` are the counts with which it was released."""

    def __init__(self, said: str, *, called: bool) -> None:
        self.loads: list[int | None] = []
        self.called = called
        self._said = said

    def go(self, loads: int | None) -> None:
        self.loads.append(loads)

    async def ended(self, _seconds: float) -> bool:
        return True

    def refusal(self) -> str:
        return self._said


@pytest.mark.parametrize(("called", "devices"), [(True, [FrozenDevice("one", 1, "gpu")]), (False, [])])
def test_devices_may_be_frozen_only_if_reboot_was_called(called: bool, devices: list[FrozenDevice]) -> None:
    async def body() -> Event:
        update, reboot = Update(frozen=True), Reboot("it is refused", called=called)
        await update.call_reboot(reboot)
        assert reboot.loads == [7]
        await update.roll_back()
        return await cancelled(update.one)

    event = asyncio.run(body())
    assert (event.reason or "").startswith("it is refused")
    assert event.frozen_devices == devices


def test_an_image_that_is_loaded_right_before_the_kexec_is_checked_again() -> None:
    """Its file may have been written to since the last check."""

    async def body() -> list[int | None]:
        update, reboot = Update(frozen=True), Reboot("it is started", called=True)

        async def load_again() -> None:
            update.image.replaced = False

        def certain(_moment: str) -> None:
            raise Refused("the image was modified after the check")

        update.image.replaced, update.image.load_again, update.image.certain = True, load_again, certain
        with pytest.raises(Refused, match="was modified"):
            await update.call_reboot(reboot)
        return reboot.loads

    assert asyncio.run(body()) == []


def test_a_load_that_does_not_end_keeps_no_guest_paused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The image's files may be on a disk that hangs. The load is awaited after participants were told (H13)."""
    monkeypatch.setattr("luod.daemon.updates.stages._LOADING_SECONDS", 0.05)

    async def body() -> tuple[Event, list[str]]:
        update, reboot, ending = Update(frozen=True), Reboot("it is started", called=True), asyncio.Event()
        update.image.replaced, update.image.load_again = True, ending.wait
        with pytest.raises(Refused, match="not loaded within") as late:
            await update.call_reboot(reboot)
        assert reboot.loads == []
        update.coordinator.end(str(late.value))
        rolling = asyncio.ensure_future(update.roll_back())
        event = await cancelled(update.one)
        assert not rolling.done()
        ending.set()
        await rolling
        return event, update.steps

    event, steps = asyncio.run(body())
    assert "not loaded within" in (event.reason or "")
    assert steps.index("loaded") < steps.index("undone")


def test_the_kexec_does_not_wait_for_an_operator_that_is_gone() -> None:
    async def body() -> bool:
        feed = ProgressFeed()
        feed.left()
        return await feed.jump_read(30.0)

    assert asyncio.run(body())
