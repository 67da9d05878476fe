"""A running guest gets another QEMU without a kexec: it counts on, and a failure leaves it with the old one."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from luod.agents.qemu import process
from luod.agents.qemu.command_line import plan
from luod.agents.qemu.upgrade import Outcome, Side, replaced
from luod.errors import GuestEnded, QemuEnded
from luod.frozen import replace
from luod.linux import Fd
from luod.liveupdate import memory
from luod.testing import eventually
from tests.agents.qemu import qemus
from tests.agents.qemu.guests import CountingGuest

MONITOR = ["-monitor", "unix:monitor,server,nowait"]
"""Two QEMUs cannot listen on this."""
FOLDER = "vm.cpr"
"""For the sockets of a transfer."""
NEWER = pytest.mark.skipif("newer" not in qemus.WHICH, reason="LUOD_NEWER_QEMU is not given")


@pytest.fixture
def guest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CountingGuest:
    monkeypatch.chdir(tmp_path)  # a path of a socket is short
    found = CountingGuest("vm", tmp_path)
    found.make_disk()
    return found


def side(guest: CountingGuest, which: str, more: Sequence[str] = (), machine: str = "") -> Side:
    found = qemus.capabilities(which)
    return Side(plan([*guest.arguments(), *more], found, machine=machine), found)


def broken(side: Side) -> Side:
    """Returns a side whose QEMU ends at its start."""
    arguments = (*side.plan.arguments, "-device", "no-such-device")
    return Side(replace(side.plan, arguments=arguments), side.capabilities)


def unfitting(side: Side) -> Side:
    """Returns a side that cannot load the state: it is of another machine type."""
    return Side(replace(side.plan, machine="isapc"), side.capabilities)


def upgraded(guest: CountingGuest, before: Side, after: Side, *, paused: bool = False) -> Outcome:
    """Runs the guest, replaces its QEMU, and lets it count on. Returns the outcome; the QEMUs have ended."""

    async def counts_past(number: int) -> None:
        await asyncio.to_thread(
            eventually, lambda: len(guest.numbers()) > number, describe=f"it counts past {number}", within=60
        )

    async def acted(ram: Fd) -> Outcome:
        qemu = await process.started(before.plan, ram, incoming=False)
        try:
            await qemu.meet()
            await counts_past(20)
            if paused:
                await qemu.qmp.execute("stop")
            outcome = await replaced(qemu, before, after, ram, FOLDER)
            if paused:
                assert (await qemu.qmp.execute("query-status"))["status"] in ("paused", "postmigrate")
                await qemu.qmp.execute("cont")
            await counts_past(len(guest.numbers()) + 20)
            assert Path("monitor").is_socket() == (MONITOR[0] in before.plan.arguments)
            return outcome
        finally:
            await qemu.end()

    with memory(before.plan.ram_bytes) as ram:
        outcome = asyncio.run(acted(ram))
    guest.assert_nothing_is_lost()
    return outcome


@pytest.mark.parametrize("paused", [False, True])
def test_the_new_qemu_starts_beside_the_old_one(guest: CountingGuest, paused: bool) -> None:
    before = side(guest, "installed")

    outcome = upgraded(guest, before, before, paused=paused)

    assert (outcome.failure, outcome.way) == (None, "beside")


@pytest.mark.parametrize("paused", [False, True])
def test_what_only_one_can_have_is_given_from_the_old_to_the_new_one(guest: CountingGuest, paused: bool) -> None:
    before = side(guest, "installed", MONITOR)

    outcome = upgraded(guest, before, before, paused=paused)

    assert (outcome.failure, outcome.way) == (None, "in turn")


@NEWER
@pytest.mark.parametrize(("more", "way"), [([], "beside"), (MONITOR, "in turn")])
def test_the_new_qemu_may_be_newer(guest: CountingGuest, more: list[str], way: str) -> None:
    before = side(guest, "installed", more)

    outcome = upgraded(guest, before, side(guest, "newer", more, before.plan.machine))

    assert (outcome.failure, outcome.way) == (None, way)


@NEWER
def test_two_newer_ones_transfer_the_guest_by_themselves(guest: CountingGuest) -> None:
    before = side(guest, "newer")

    left = Path(FOLDER, "main")
    left.parent.mkdir()
    left.touch()

    outcome = upgraded(guest, before, before)

    assert (outcome.failure, outcome.way) == (None, "transfer")
    assert not left.parent.exists()


@pytest.mark.parametrize("which", qemus.WHICH)
@pytest.mark.parametrize("more", [[], MONITOR])
@pytest.mark.parametrize("fault", [broken, unfitting])
def test_a_failure_leaves_the_guest_with_the_old_qemu(
    guest: CountingGuest, which: str, more: list[str], fault: Callable[[Side], Side]
) -> None:
    before = side(guest, which, more)

    outcome = upgraded(guest, before, fault(before))

    assert outcome.failure is not None


def test_a_guest_that_neither_qemu_loads_has_ended_and_that_is_said(guest: CountingGuest) -> None:
    before = side(guest, "installed", MONITOR)

    async def lost(ram: Fd) -> None:
        qemu = await process.started(before.plan, ram, incoming=False)
        try:
            await qemu.meet()
            with pytest.raises(GuestEnded, match="the guest has ended"):
                await replaced(qemu, broken(before), broken(before), ram, FOLDER)
            assert qemu.ended
        finally:
            await qemu.end()

    with memory(before.plan.ram_bytes) as ram:
        asyncio.run(lost(ram))


@pytest.mark.parametrize("more", [[], MONITOR])
def test_a_guest_that_is_asked_to_end_during_an_exchange_ends(
    guest: CountingGuest, tmp_path: Path, more: list[str]
) -> None:
    """Also when its old QEMU is gone already, and the new one has not begun."""
    before = side(guest, "installed", more)
    begun, going = tmp_path / "begun", tmp_path / "going"
    slow = tmp_path / "slow"
    slow.write_text(f'#!/bin/sh\ntouch {begun}\nuntil test -e {going}; do sleep 0.02; done\nexec "$0.qemu" "$@"\n')
    slow.chmod(0o755)
    slow.with_suffix(".qemu").symlink_to(qemus.path("installed"))
    after = Side(replace(before.plan, program=str(slow)), before.capabilities)

    async def asked(ram: Fd) -> None:
        qemu = await process.started(before.plan, ram, incoming=False)
        try:
            await qemu.meet()
            exchange = asyncio.ensure_future(replaced(qemu, before, after, ram, FOLDER))
            await asyncio.to_thread(eventually, begun.exists, describe="the new QEMU is started")
            qemu.ask_to_end()
            going.touch()
            with contextlib.suppress(QemuEnded):
                await exchange
            async with asyncio.timeout(60):
                assert await qemu.wait() == 0
        finally:
            await qemu.end()

    with memory(before.plan.ram_bytes) as ram:
        asyncio.run(asked(ram))
