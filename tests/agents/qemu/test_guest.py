"""A guest whose upgrade failed is again what its owner may save."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import pytest

from luod.agents.guests import state
from luod.agents.guests.monitor import Monitor
from luod.agents.qemu import command_line, process, programs, record
from luod.agents.qemu.guest import Guest
from luod.aio import AsyncClient
from luod.ipc.errors import UpgradeFailed
from luod.linux import Fd
from luod.liveupdate import memory
from tests.agents.qemu import qemus
from tests.agents.qemu.guests import CountingGuest


async def save_without_time(save: Callable[..., Awaitable[Fd]], qmp: Monitor, *, file_uri: bool, within: float) -> Fd:
    return await save(qmp, file_uri=file_uri, within=0.0)


def test_a_save_by_its_owner_has_the_memory_after_an_upgrade_that_took_too_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # a path of a socket is short
    monkeypatch.setattr(state, "save", partial(save_without_time, state.save))
    counting = CountingGuest("vm", tmp_path)
    counting.make_disk()
    path = qemus.path("installed")

    async def acted() -> None:
        file, capabilities = await programs.asked(path, counting.arguments())
        plan = command_line.plan(counting.arguments(), capabilities)
        with memory(plan.ram_bytes) as ram:
            qemu = await process.started(plan, ram, incoming=False)
            try:
                await qemu.meet()
                client = AsyncClient(str(tmp_path / "luod.sock"))
                guest = Guest("vm", record.of_plan(plan, capabilities, file), qemu, ram, client, print)

                with pytest.raises(UpgradeFailed, match="the guest's state was not written within 0 s"):
                    await guest.upgrade(path)

                has = await qemu.qmp.execute("query-migrate-capabilities")
                assert [each["state"] for each in has if each["capability"] == "x-ignore-shared"] == [False]
                assert (await qemu.qmp.execute("query-status"))["running"]
            finally:
                await qemu.end()

    asyncio.run(acted())
