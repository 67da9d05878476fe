"""An upgrade that fails unexpectedly, as without a thread or memory, leaves the guest with the old QEMU."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, cast

import pytest

from luod.agents.guests import state
from luod.agents.qemu import upgrade
from luod.agents.qemu.process import Qemu
from luod.agents.qemu.upgrade import Outcome, Side
from luod.errors import GuestEnded, QemuError, QmpFailed
from luod.linux import Fd, memfd

NO_THREAD = RuntimeError("can't start new thread")


class OldQemu:
    """A QEMU that runs a guest, and what is done with it."""

    def __init__(self, *, locked: bool = False) -> None:
        self.qmp = self
        self.done: list[str] = []
        self.runs = True
        self.locked = locked

    async def execute(self, command: str, arguments: object = None) -> None:
        self.done.append(command)
        if self.locked and command == "cont":
            raise QmpFailed(command, "Failed to get a lock")
        self.runs = command == "cont"

    async def asked(self, command: str, read: Callable[[Any], Any], arguments: object = None) -> Any:
        return read({"running": self.runs})

    def signal(self, number: int) -> None:
        self.done.append("killed")

    async def end(self) -> None: ...

    def become(self, other: object) -> None:
        self.done.append(f"becomes {other}")


def side(name: str) -> Side:
    class Capabilities:
        file_uri = True

    return Side(cast(Any, name), cast(Any, Capabilities()))


OLD, NEW = side("old"), side("new")


@pytest.fixture(autouse=True)
def saved(monkeypatch: pytest.MonkeyPatch) -> None:
    async def save(*_: object, **__: object) -> Fd:
        return memfd("state", 0)

    monkeypatch.setattr(state, "save", save)


def loading(*failing: str) -> Callable[..., Awaitable[object]]:
    async def loaded(side: Side, *_: object) -> object:
        if str(side.plan) in failing:
            raise NO_THREAD
        return side.plan

    return loaded


def in_turn(old: OldQemu) -> Outcome:
    return asyncio.run(upgrade._in_turn(cast(Qemu, old), OLD, NEW, cast(Any, None), running=True))


def test_in_turn_the_old_qemu_is_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    old = OldQemu()
    monkeypatch.setattr(upgrade, "_loaded", loading("new"))
    outcome = in_turn(old)
    assert isinstance(outcome.failure, QemuError)
    assert (str(outcome.failure), old.done) == (str(NO_THREAD), ["stop", "killed", "becomes old", "cont"])


def test_in_turn_a_guest_that_no_qemu_continues_stays_in_the_old_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another program has locked its disk when the old QEMU gave it up. The guest is continued later."""
    old = OldQemu(locked=True)
    monkeypatch.setattr(upgrade, "_loaded", loading("new"))
    with pytest.raises(QemuError, match="stays paused in the old QEMU") as caught:
        in_turn(old)
    assert not isinstance(caught.value, GuestEnded)
    assert old.done[-2:] == ["becomes old", "cont"]


def test_in_turn_a_guest_that_no_qemu_loads_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upgrade, "_loaded", loading("new", "old"))
    with pytest.raises(GuestEnded):
        in_turn(OldQemu())


def test_beside_the_guest_is_continued_in_the_old_qemu() -> None:
    old = OldQemu()

    async def attempt() -> Qemu:
        await old.execute("stop")
        raise NO_THREAD

    outcome = asyncio.run(upgrade._attempted(cast(Qemu, old), "beside", True, attempt))
    assert isinstance(outcome.failure, QemuError)
    assert old.done == ["stop", "cont"]
