"""A running guest gets another QEMU without a kexec: it counts on, and a failure leaves it with the old one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from luod.agents.qemu import process
from luod.agents.qemu.command_line import plan
from luod.agents.qemu.upgrade import GuestLost, Outcome, Side, exclusive, replaced
from luod.frozen import replace
from luod.linux import Fd
from luod.liveupdate import memory
from luod.testing import eventually
from tests.agents.qemu import qemus
from tests.agents.qemu.guests import CountingGuest

MONITOR = ["-monitor", "unix:monitor,server,nowait"]
"""Two QEMUs cannot listen on this."""
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
            outcome = await replaced(qemu, before, after, ram)
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

    outcome = upgraded(guest, before, before)

    assert (outcome.failure, outcome.way) == (None, "transfer")


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
            with pytest.raises(GuestLost, match="the guest has ended"):
                await replaced(qemu, broken(before), broken(before), ram)
            assert qemu.ended
        finally:
            await qemu.end()

    with memory(before.plan.ram_bytes) as ram:
        asyncio.run(lost(ram))


@pytest.mark.parametrize(
    "arguments",
    [
        ["-pidfile", "p"],
        ["-vnc", ":1"],
        ["-display", "vnc=:1"],
        ["-netdev", "tap,id=n,ifname=tap0"],
        ["-netdev", "user,id=n,hostfwd=tcp::2222-:22"],
        ["-netdev", '{"type":"user","id":"n","hostfwd":[{"str":"tcp::2222-:22"}]}'],
        ["-netdev", "stream,id=n,server=on,addr.type=unix,addr.path=s"],
        ["-serial", "tcp::5000,server,nowait"],
        ["-chardev", "socket,id=c,path=s,server=on,wait=off"],
        ["-qmp", "unix:q,server=on,wait=off"],
        ["-s"],
        ["-serial", "/dev/ttyS0"],
        ["-device", "vhost-vsock-pci,guest-cid=3"],
    ],
)
def test_what_only_one_qemu_can_have_is_known(arguments: list[str]) -> None:
    assert exclusive(arguments) == (" ".join(arguments),)


@pytest.mark.parametrize(
    "arguments",
    [
        ["-netdev", "user,id=n"],
        ["-serial", "file:f"],
        ["-chardev", "socket,id=c,path=s"],
        ["-drive", "file=a.img"],
        ["-serial", "stdio"],
        ["-netdev", "stream,id=n,addr.type=unix,addr.path=s"],
    ],
)
def test_what_two_qemus_can_have_is_known(arguments: list[str]) -> None:
    assert exclusive(arguments) == ()
