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
from luod.linux import Fd
from luod.liveupdate import memory
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
        async with asyncio.timeout(60):
            while "goes on: vetoed" not in guest.said and not taking.done():
                await asyncio.sleep(0.01)
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


class Restored:
    async def resume(self) -> None: ...

    async def finish(self) -> None:
        raise RuntimeError(NO_THREAD)


class Deaf:
    async def execute(self, command: str, arguments: object = None) -> None:
        raise MemoryError


def test_after_the_guest_has_resumed_no_unexpected_error_is_raised() -> None:
    said: list[str] = []
    asyncio.run(resume(cast(AsyncRestored, Restored()), cast(Monitor, Deaf()), said.append, None))
    assert said == [f"its session could not be finished, and is left to `luoctl discard`: {NO_THREAD}"]
