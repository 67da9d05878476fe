"""What QEMU does not answer, or answers otherwise than expected, is a typed error with words."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable
from typing import TypeVar

import pytest

from luod.agents.guests import state
from luod.agents.guests.deadline import in_time
from luod.agents.qemu import process
from luod.agents.qemu.command_line import plan
from luod.agents.qemu.process import Qemu
from luod.errors import QemuLate, QmpFailed, QmpUnknown
from luod.liveupdate import memory
from tests.agents.qemu import qemus

T = TypeVar("T")


def with_qemu(ask: Callable[[Qemu], Awaitable[T]]) -> T:
    """Returns the result of `ask`, which gets a QEMU whose guest has no program."""
    plain = plan(["-m", "16M", "-nodefaults", "-display", "none", "-S"], qemus.capabilities("installed"))

    async def run() -> T:
        with memory(plain.ram_bytes) as ram:
            qemu = await process.started(plain, ram, incoming=False)
            try:
                await qemu.meet()
                return await ask(qemu)
            finally:
                qemu.signal(signal.SIGCONT)
                await qemu.end()

    return asyncio.run(run())


def test_an_answer_without_what_is_looked_for_is_an_error_with_the_answer() -> None:
    async def ask(qemu: Qemu) -> None:
        await qemu.qmp.asked("query-status", lambda answer: answer["no-such-member"])

    with pytest.raises(QmpUnknown, match=r"query-status: QEMU answered .*prelaunch") as caught:
        with_qemu(ask)

    assert caught.value.hint


def test_an_answer_of_another_type_is_an_error_with_the_answer() -> None:
    async def ask(qemu: Qemu) -> None:
        await qemu.qmp.asked("query-block", lambda answer: answer.get("device"))

    with pytest.raises(QmpUnknown, match=r"query-block: QEMU answered \["):
        with_qemu(ask)


def test_a_command_that_is_refused_is_an_error_with_its_name() -> None:
    async def ask(qemu: Qemu) -> None:
        await qemu.qmp.execute("no-such-command")

    with pytest.raises(QmpFailed, match="no-such-command: "):
        with_qemu(ask)


def test_a_qemu_that_is_stopped_is_late_and_answers_when_it_goes_on() -> None:
    async def ask(qemu: Qemu) -> str:
        qemu.signal(signal.SIGSTOP)
        with pytest.raises(QemuLate, match="QEMU did not say it within 0 s") as caught:
            async with in_time(0.2, "QEMU did not say it"):
                await state.status(qemu.qmp)
        assert caught.value.hint
        qemu.signal(signal.SIGCONT)
        return await state.status(qemu.qmp)

    assert with_qemu(ask) == "prelaunch"


def test_a_timeout_of_the_block_itself_is_left_as_it_is() -> None:
    async def ask() -> None:
        async with in_time(60, "never said"):
            raise TimeoutError("of the block")

    with pytest.raises(TimeoutError, match="of the block"):
        asyncio.run(ask())
