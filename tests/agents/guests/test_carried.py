"""An agent that fails unexpectedly, as without a thread or memory, does not end its guest and leaves it not paused."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import pytest

from luod.agents.guests import carried
from luod.agents.guests.carried import CarriedGuest
from luod.agents.guests.monitor import Monitor
from luod.agents.guests.resuming import resume
from luod.aio import AsyncClient, AsyncHeldOutgoingSession, AsyncRestored
from luod.errors import (
    AlreadyResumed,
    Busy,
    DaemonUnreachable,
    LuodError,
    NoSuchSession,
    QemuEnded,
    QemuRefusal,
    QmpFailed,
    Refused,
    Torn,
)
from luod.linux import Fd
from luod.liveupdate import memory
from luod.testing.waiting import eventually_async
from tests.impostor import Answer, Impostor, reply

NO_THREAD = "can't start new thread"
ENDS = 7


class Session:
    name = "vm"
    contents = ()
    tokens = ()

    def close(self) -> None:
        pass

    async def release(self) -> None:
        pass


class Guest(CarriedGuest):
    """A guest without a QEMU. `attempts` counts what fails."""

    agent = "test"
    by_hand = "hand"

    def __init__(self, ram: Fd, path: str = "/none") -> None:
        self.said: list[str] = []
        super().__init__("vm", ram, AsyncClient(path, timeout=10), self.said.append)
        self.attempts = 0
        self.failed_twice = asyncio.Event()

    async def _ended(self) -> int:
        await self.failed_twice.wait()
        return ENDS

    def _about(self) -> Mapping[str, Any]:
        return {}

    def _fail(self) -> None:
        self.attempts += 1
        if self.attempts == 2:
            self.failed_twice.set()
        raise RuntimeError(NO_THREAD)

    async def _vetoes(self) -> tuple[str, ...]:
        self._fail()
        return ()

    @property
    def _monitor(self) -> Monitor:
        raise NotImplementedError

    async def _pause(self) -> None: ...

    async def _save(self, within: float) -> Fd:
        raise NotImplementedError

    async def _proceed(self) -> None:
        if self.attempts < 2:
            self._fail()

    async def _note_change(self) -> None: ...


class Failing(Guest):
    """One whose agent can neither create a session at first nor take part."""

    async def _created(self, *, sessions_lost: int = 0) -> AsyncHeldOutgoingSession:
        if not self.attempts:
            self._fail()
        return cast(AsyncHeldOutgoingSession, Session())

    async def _created_again(self) -> AsyncHeldOutgoingSession:
        await asyncio.sleep(0)
        return await self._created()

    async def _take_part(self, session: AsyncHeldOutgoingSession) -> None:
        self._fail()


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(carried, "_AGAIN_PAUSE", 0.0)


def test_an_agent_that_cannot_take_part_leaves_the_guest_until_it_ends(capsys: pytest.CaptureFixture[str]) -> None:
    with memory(4096) as ram:

        async def run() -> tuple[int, list[str]]:
            guest = Failing(ram)
            return await asyncio.wait_for(guest.carry(patiently=True), 60), guest.said

        status, said = asyncio.run(run())
    assert status == ENDS
    assert said[:2] == [f"takes part in no update yet: {NO_THREAD}", f"takes part in no update: {NO_THREAD}"]
    assert "Traceback" in capsys.readouterr().err


def test_an_unexpected_error_in_a_phase_is_a_veto(tmp_path: Path) -> None:
    events = [
        reply({"event": "following", "participant": "t", "state": "idle"}, continues=True),
        reply({"event": "preparing", "generation": 1, "deadline": 30}, continues=True),
        reply({"event": "cancelled", "reason": "vetoed"}, continues=True),
    ]
    answers = (Answer(*events, hold=True), *[Answer(reply())] * 4)

    async def run(path: str, ram: Fd) -> list[str]:
        guest = Guest(ram, path)
        taking = asyncio.ensure_future(guest._take_part(cast(AsyncHeldOutgoingSession, Session())))
        await eventually_async(lambda: "goes on: vetoed" in guest.said or taking.done(), describe="the guest goes on")
        taking.cancel()
        await asyncio.wait({taking})
        return guest.said

    with memory(4096) as ram, Impostor(tmp_path, *answers) as impostor:
        said = asyncio.run(run(impostor.path, ram))
    assert said == ["takes part in updates", f"preparing: {NO_THREAD}", "goes on: vetoed"]
    (ballot,) = [call["parameters"] for call in impostor.calls if call["method"].endswith("Vote")]
    assert (ballot["vote"], ballot["reason"]) == ("veto", f"vm: {NO_THREAD}")


def test_a_guest_that_an_unexpected_error_keeps_paused_is_continued_after_it() -> None:
    with memory(4096) as ram:

        async def run() -> Guest:
            guest = Guest(ram)
            guest._paused = True
            await guest._go_on("cancelled")
            return guest

        guest = asyncio.run(run())
    assert (guest.said, guest._paused) == ([f"is still paused: {NO_THREAD}", "goes on: cancelled"], False)


def test_a_guest_goes_on_whose_agent_cannot_have_its_memory_saved_again() -> None:
    with memory(4096) as ram:

        async def run() -> Guest:
            guest = Guest(ram)
            guest._paused = guest._ram_left_out = True
            guest.attempts = 2
            await guest.go_on_restored()  # its monitor fails unexpectedly
            return guest

        guest = asyncio.run(run())
    assert guest.said[0] == "goes on: it was restored"
    assert guest.said[1].startswith("must be saved by this agent only")


class Restored:
    """Sessions of a luod that answers Resuming by these errors, and then accepts it."""

    name = "vm"

    def __init__(self, *errors: Exception, finishes: bool = True) -> None:
        self._errors = list(errors)
        self._finishes = finishes
        self.asked = 0
        self.resumed = self.finished = False

    async def resume(self) -> None:
        self.asked += 1
        if self._errors:
            raise self._errors.pop(0)
        self.resumed = True

    async def finish(self) -> None:
        if not self._finishes:
            raise RuntimeError(NO_THREAD)
        self.finished = True


class Deaf:
    async def execute(self, command: str, arguments: object = None) -> None:
        raise MemoryError


def resumed(restored: Restored, *, ends_after: int = 100) -> list[str]:
    """Returns what the agent said while the guest resumed. QEMU ends when luod was asked `ends_after` times."""
    said: list[str] = []

    async def go_on() -> None:
        assert restored.resumed
        said.append("goes on")

    steps = resume(
        cast(AsyncRestored, restored),
        cast(Monitor, Deaf()),
        said.append,
        go_on,
        has_ended=lambda: restored.asked >= ends_after,
    )
    asyncio.run(asyncio.wait_for(steps, 60))
    return said


def test_after_the_guest_has_resumed_no_unexpected_error_is_raised() -> None:
    assert resumed(Restored(finishes=False)) == [
        "goes on",
        f"its session could not be finished, and is left to `luoctl discard`: {NO_THREAD}",
    ]


def test_a_guest_waits_for_a_luod_that_does_not_answer_whether_it_may_run() -> None:
    restored = Restored(DaemonUnreachable("luod is gone"), DaemonUnreachable("luod is gone"), RuntimeError(NO_THREAD))
    said = resumed(restored)
    assert [line.partition(". ")[0] for line in said] == [
        "waits for luod, which has to record that the guest goes on: luod is gone",
        f"waits for luod, which has to record that the guest goes on: {NO_THREAD}",
        "goes on",
    ]
    assert restored.finished


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (AlreadyResumed("elsewhere"), QemuRefusal),  # not one for which the guest is started from the beginning
        (Torn("not ready"), Torn),
        (NoSuchSession(2, "luod"), NoSuchSession),
        (Refused("it was not retrieved"), Refused),
    ],
)
def test_h12_a_guest_that_luod_refuses_is_not_continued(error: Exception, raised: type[Exception]) -> None:
    restored = Restored(error)
    with pytest.raises(raised) as caught:
        resumed(restored)
    assert not isinstance(caught.value, AlreadyResumed)
    assert (restored.asked, restored.finished) == (1, False)


def test_h12_a_guest_whose_qemu_ended_before_luod_answered_is_not_continued() -> None:
    with pytest.raises(DaemonUnreachable):
        resumed(Restored(DaemonUnreachable("luod is gone")), ends_after=1)


def test_luod_is_not_told_that_a_guest_resumes_whose_qemu_has_ended() -> None:
    restored = Restored()
    with pytest.raises(QemuEnded):
        resumed(restored, ends_after=0)
    assert restored.asked == 0


@pytest.mark.parametrize(
    "errors",
    [
        [Busy("io.luod.TooManyConnections", "full")],
        [DaemonUnreachable("luod is gone"), Busy("io.luod.TooManyConnections", "full")],
        [DaemonUnreachable("luod is gone"), Refused("its registry is of a newer luod"), DaemonUnreachable("gone")],
    ],
)
def test_a_guest_that_luod_may_have_accepted_waits_for_an_answer_about_it(errors: list[LuodError]) -> None:
    """luod would accept it from no other process."""
    restored = Restored(*errors)
    assert resumed(restored)[-1] == "goes on"
    assert restored.finished


class Refusing(Guest):
    """One that QEMU does not continue at first."""

    async def _proceed(self) -> None:
        self.attempts += 1
        if self.attempts < 4:
            raise QmpFailed("cont", f"refused {self.attempts // 3}")


def test_a_guest_that_qemu_refuses_to_continue_is_continued_as_soon_as_it_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(carried, "_STUCK_PAUSES", (0.0,))
    with memory(4096) as ram:

        async def run() -> Refusing:
            guest = Refusing(ram)
            await guest.go_on_restored()
            assert guest.stuck
            assert guest._continuing is not None
            await asyncio.wait_for(guest._continuing, 60)
            return guest

        guest = asyncio.run(run())
    assert [line.partition(";")[0] for line in guest.said] == [
        "cannot be continued: cont: refused 0",
        "cannot be continued: cont: refused 1",
        "goes on: QEMU continues it now",
    ]
    assert not guest.stuck


def test_a_guest_that_qemu_refuses_to_continue_is_left_alone_while_an_update_runs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(carried, "_STUCK_PAUSES", (0.0,))
    with memory(4096) as ram:

        async def run() -> Refusing:
            guest = Refusing(ram)
            await guest.go_on_restored()
            guest._updating = True
            for _ in range(20):
                await asyncio.sleep(0)
            assert guest._continuing is not None
            guest._continuing.cancel()
            return guest

        guest = asyncio.run(run())
    assert guest.attempts == 1
