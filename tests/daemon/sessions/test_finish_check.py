"""Asking the kernel about sessions with a process blocked in an ioctl. A call that waits stands for the kernel."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading

import pytest

from luod.daemon.sessions.finish_check import Checks
from luod.errors import KernelRefused
from luod.ipc.errors import Busy
from luod.linux import Fd, memfd

ALICE, BOB = 1000, 1001


@pytest.fixture
def session() -> Fd:
    """Returns a memfd for a session: no test here makes an ioctl on it."""
    return memfd("session", 0)


def test_who_hangs_in_many_is_busy_and_others_are_served(session: Fd) -> None:
    over = threading.Event()

    async def ask() -> None:
        checks = Checks(patience=0.01)
        for _ in range(4):
            with pytest.raises(Busy) as told:
                await checks.ask(ALICE, over.wait)
            assert "in an ioctl of this session" in told.value.parameters["message"]
        with pytest.raises(Busy) as told:
            await checks.unfinished(ALICE, session)
        assert "to answer about other sessions" in told.value.parameters["message"]
        checks.patience = 60
        assert await checks.ask(BOB, lambda: True)
        # The pool that everything else uses is as it was.
        assert await asyncio.to_thread(lambda: True)
        over.set()
        async with asyncio.timeout(60):
            while checks.waiting:
                await asyncio.sleep(0)

    with session:
        asyncio.run(ask())


def test_many_calls_of_one_user_at_once_are_all_answered() -> None:
    async def ask() -> None:
        checks = Checks(patience=60)
        with memfd("session", 0) as session:  # not a session: the kernel answers ENOTTY
            asked = (checks.unfinished(ALICE, session) for _ in range(40))
            answers = await asyncio.gather(*asked, return_exceptions=True)
        assert {type(answer) for answer in answers} == {KernelRefused}
        assert not checks.waiting

    asyncio.run(ask())


def test_a_thread_that_has_answered_is_used_again() -> None:
    async def ask() -> None:
        checks = Checks()
        assert len({await checks.ask(ALICE, threading.get_ident) for _ in range(8)}) == 1

    asyncio.run(ask())


def test_what_the_kernel_refuses_comes_back() -> None:
    def refuse() -> bool:
        raise OSError(5, "EIO")

    async def ask() -> None:
        checks = Checks()
        with pytest.raises(OSError, match="EIO"):
            await checks.ask(ALICE, refuse)
        assert not checks.waiting

    asyncio.run(ask())


def test_a_serve_that_is_to_end_does_not_wait_for_the_kernel() -> None:
    program = """
import asyncio, threading
from luod.daemon.sessions.finish_check import Checks
from luod.errors import KernelRefused
from luod.ipc.errors import Busy
async def ask():
    try:
        await Checks(patience=0.01).ask(1000, threading.Event().wait)
    except Busy:
        print("busy")
asyncio.run(ask())
"""
    run = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, timeout=60, check=True)
    assert run.stdout == b"busy\n"
