"""A guest whose upgrade or save failed goes on, and is again what its owner may save."""

from __future__ import annotations

import asyncio
import fcntl
import os
import struct
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest

from luod.agents.guests import carried, state
from luod.agents.guests.deadline import in_time
from luod.agents.guests.monitor import Monitor
from luod.agents.qemu import command_line, process, programs, record, upgrade
from luod.agents.qemu.guest import Guest
from luod.agents.qemu.process import Qemu
from luod.aio import AsyncClient
from luod.errors import QemuError, QemuLate
from luod.ipc.errors import UpgradeFailed
from luod.linux import Fd
from luod.liveupdate import memory
from tests.agents.qemu import qemus
from tests.agents.qemu.guests import CountingGuest


async def save_without_time(save: Callable[..., Awaitable[Fd]], qmp: Monitor, *, file_uri: bool, within: float) -> Fd:
    return await save(qmp, file_uri=file_uri, within=0.0)


Step = Callable[[Guest, Qemu], Awaitable[None]]


def with_guest(folder: Path, step: Step) -> None:
    """Runs the step on a guest that runs in the installed QEMU."""
    counting = CountingGuest("vm", folder)
    counting.make_disk()
    path = qemus.path("installed")

    async def acted() -> None:
        file, capabilities = await programs.asked(path, counting.arguments())
        plan = command_line.plan(counting.arguments(), capabilities)
        with memory(plan.ram_bytes) as ram:
            qemu = await process.started(plan, ram, incoming=False)
            try:
                await qemu.meet()
                client = AsyncClient(str(folder / "luod.sock"))
                guest = Guest("vm", record.of_plan(plan, capabilities, file), qemu, ram, client, print)
                await asyncio.wait_for(step(guest, qemu), 120)
            finally:
                await qemu.end()

    asyncio.run(acted())


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)  # a path of a socket is short
    return tmp_path


def test_a_save_by_its_owner_has_the_memory_after_an_upgrade_that_took_too_long(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state, "save", partial(save_without_time, state.save))

    async def step(guest: Guest, qemu: Qemu) -> None:
        with pytest.raises(UpgradeFailed, match="the guest's state was not written within 0 s"):
            await guest.upgrade(qemus.path("installed"))

        has = await qemu.qmp.execute("query-migrate-capabilities")
        assert [each["state"] for each in has if each["capability"] == "x-ignore-shared"] == [False]
        assert await state.runs(qemu.qmp)

    with_guest(folder, step)


def test_a_save_that_is_given_up_pauses_no_guest_that_runs_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An agent gets a signal while QEMU writes: at its end QEMU would pause the guest."""

    async def step(guest: Guest, qemu: Qemu) -> None:
        await qemu.qmp.execute("migrate-set-parameters", {"max-bandwidth": 16 << 10})  # so that it takes long
        await qemu.qmp.execute("stop")
        saving = asyncio.ensure_future(guest._save(60))
        async with in_time(60, "QEMU did not begin to write"):
            said = await qemu.qmp.execute("query-migrate")
            while said.get("status") != "active":
                said = await qemu.qmp.execute("query-migrate")
        saving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await saving
        await guest._proceed()

        assert (await state.migration(qemu.qmp)).failed
        assert await state.runs(qemu.qmp)

    with_guest(folder, step)


def test_a_guest_that_stays_paused_after_a_failed_upgrade_is_continued_later(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def paused(qemu: Qemu, *_: object) -> None:
        await qemu.qmp.execute("stop")
        raise QemuError("the guest stays paused in the old QEMU")

    monkeypatch.setattr(upgrade, "replaced", paused)
    monkeypatch.setattr(carried, "_STUCK_PAUSES", (0.0,))

    async def step(guest: Guest, qemu: Qemu) -> None:
        with pytest.raises(QemuError, match="stays paused"):
            await guest.upgrade(qemus.path("installed"))
        assert guest._continuing is not None
        await guest._continuing
        assert not guest.stuck
        assert await state.runs(qemu.qmp)

    with_guest(folder, step)


def test_a_guest_whose_disk_is_locked_in_an_upgrade_in_turn_is_continued_when_it_is_not(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither QEMU continues it. The old one keeps it, which has to be started again for that."""
    monkeypatch.setattr(upgrade, "exclusive", lambda _arguments: ("a port",))
    monkeypatch.setattr(carried, "_STUCK_PAUSES", (0.1,))
    disk = Fd(os.open(folder / "disk.raw", os.O_RDWR | os.O_CREAT))
    save = state.save

    async def saved_then_locked(qmp: Monitor, **options: Any) -> Fd:
        written = await save(qmp, **options)
        forbids_writes = struct.pack("@hhqqi4x", fcntl.F_RDLCK, os.SEEK_SET, 201, 1, 0)
        fcntl.fcntl(disk.fileno(), fcntl.F_OFD_SETLK, forbids_writes)
        return written

    monkeypatch.setattr(state, "save", saved_then_locked)

    async def step(guest: Guest, qemu: Qemu) -> None:
        with pytest.raises(QemuError, match="stays paused in the old QEMU"):
            await guest.upgrade(qemus.path("installed"))
        assert guest.stuck
        disk.close()
        assert guest._continuing is not None
        await guest._continuing
        assert await state.runs(qemu.qmp)

    with disk:
        with_guest(folder, step)


class Deaf:
    """A QEMU whose monitor fails unexpectedly."""

    @property
    def qmp(self) -> Monitor:
        raise MemoryError


def test_a_guest_is_not_ended_by_an_agent_that_cannot_look_at_its_hardware() -> None:
    said: list[str] = []
    with memory(4096) as ram:
        guest = Guest("vm", cast(Any, None), cast(Qemu, Deaf()), ram, AsyncClient("/none"), said.append)
        asyncio.run(guest._look())
    assert said == ["what is plugged in from now on may not be noticed: MemoryError"]


class Slow:
    """A QEMU that does not answer in time at first."""

    def __init__(self) -> None:
        self.qmp = self
        self.asked: list[str] = []

    async def execute(self, command: str) -> None:
        self.asked.append(command)
        if len(self.asked) < 3:
            raise QemuLate("QEMU did not answer cont within 120 s")


def test_a_new_qemu_that_may_run_the_guest_is_asked_until_it_answers() -> None:
    slow = Slow()
    asyncio.run(upgrade._continued(cast(Qemu, slow), running=True))
    assert slow.asked == ["cont"] * 3
