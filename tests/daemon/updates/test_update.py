"""The operator's requests about updates, and what serve takes over from the previous one. No machine."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from luod.daemon.log import Log
from luod.daemon.run_state import RunState
from luod.daemon.updates.update import Updater
from luod.ipc.errors import UpdateRunning
from luod.ipc.types.admin import Wishes
from tests.daemon.updates.test_stages import Update


def updater(update: Update, failed: list[BaseException]) -> Updater:
    """Returns one that runs the stages of `update`. `failed` gets the errors that end serve."""
    unused: Any = None
    holdings: Any = SimpleNamespace(registry=None, broken=None)
    return Updater(
        holdings,
        update.image,
        unused,
        update.participants,
        update.recorder,
        update.stages,
        unused,
        update.run,
        Log("serve", "error"),
        failed=failed.append,
    )


def test_a_take_over_that_fails_ends_serve_and_shows_where(capfd: pytest.CaptureFixture[str]) -> None:
    """The next serve takes over; otherwise no task would wait for reboot(2), and guests would stay paused."""

    async def body() -> list[BaseException]:
        update, failed = Update(), list[BaseException]()
        update.stages._registry = cast("Any", None)  # a defect
        taking_over = updater(update, failed)
        taking_over.take_over()
        task = taking_over._task
        assert task is not None
        await asyncio.wait((task,))
        await asyncio.sleep(0)
        return failed

    (error,) = asyncio.run(body())
    assert isinstance(error, AttributeError)
    assert "await_reboot:" in capfd.readouterr().err


@pytest.mark.parametrize(
    "state", [RunState.PREPARED, RunState.FREEZING, RunState.FROZEN, RunState.JUMPING, RunState.CANCELLING]
)
def test_no_check_begins_while_guests_are_paused_or_about_to_be(state: RunState) -> None:
    async def body() -> None:
        update = Update()
        update.run._state = state
        with pytest.raises(UpdateRunning):
            await updater(update, []).check(None, None, None, Wishes())

    asyncio.run(body())
