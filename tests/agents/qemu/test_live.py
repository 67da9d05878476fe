"""A running guest that is no longer what its command line says is not carried, and what to remove is named."""

from __future__ import annotations

import asyncio
import socket
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from luod.agents.guests.live import Hardware, changes, hardware, vetoes
from luod.agents.qemu.command_line import plan
from luod.agents.qemu.qmp import Qmp
from luod.liveupdate import memory
from luod.testing import require_tool
from tests.agents.qemu import qemus

Command = tuple[str, Mapping[str, object]]

BUSES = ["-device", "pcie-root-port,id=bus1,chassis=1,slot=5", "-device", "pcie-root-port,id=bus2,chassis=2,slot=6"]
AT_START = Hardware(("nic (e1000e)",), 1, (("cd", "a.iso"), ("virtio0", "a.img")))


def found(which: str, arguments: Sequence[str], *commands: Command) -> tuple[str, ...]:
    """Returns the vetoes of a guest of a real QEMU after the commands."""
    guest = plan(["-M", "q35", "-m", "64M", "-display", "none", "-S", *arguments], qemus.capabilities(which))

    async def asked(monitor: socket.socket) -> tuple[str, ...]:
        async with await Qmp.connected(monitor) as qmp:
            before = await hardware(qmp)
            for command, given in commands:
                await qmp.execute(command, given)
            return await vetoes(qmp, before)

    with memory(guest.ram_bytes) as ram, qemus.started(guest, ram) as monitor:
        return asyncio.run(asked(monitor))


@pytest.mark.parametrize("which", qemus.WHICH)
def test_a_guest_that_is_as_it_was_started_is_carried(which: str) -> None:
    assert found(which, BUSES) == ()


@pytest.mark.parametrize("which", qemus.WHICH)
@pytest.mark.parametrize(
    ("commands", "says"),
    [
        (
            [("device_add", {"driver": "virtio-balloon-pci", "bus": "bus1", "id": "b"})],
            ["it has a balloon", "the device b (virtio-balloon-pci) was plugged in"],
        ),
        (
            [("device_add", {"driver": "virtio-rng-pci", "bus": "bus2"})],
            ["the device device[0] (virtio-rng-pci) was plugged in"],
        ),
        (
            [("object-add", {"qom-type": "memory-backend-ram", "id": "more", "size": 4 << 20})],
            ["another memory back end, more"],
        ),
        (
            [("device_add", {"driver": "qemu64-x86_64-cpu", "id": "c", "socket-id": 0, "core-id": 1, "thread-id": 0})],
            ["it has 2 processors, and was started with 1", "the device c (qemu64-x86_64-cpu) was plugged in"],
        ),
    ],
)
def test_what_was_plugged_in_is_named(which: str, commands: list[Command], says: list[str]) -> None:
    said = found(which, [*BUSES, "-smp", "1,maxcpus=2,sockets=1,cores=2,threads=1"], *commands)

    for sentence in says:
        assert [each for each in said if sentence in each], said


@pytest.mark.parametrize("which", qemus.WHICH)
def test_a_disk_that_was_exchanged_by_a_snapshot_is_named(which: str, tmp_path: Path) -> None:
    image, overlay = tmp_path / "a.qcow2", tmp_path / "b.qcow2"
    qemu_img = require_tool("qemu-img", package="qemu-utils")
    subprocess.run([qemu_img, "create", "-q", "-f", "qcow2", image, "1M"], check=True)
    disk = ["-drive", f"file={image},format=qcow2,if=virtio,id=d"]
    snapshot = {"device": "d", "snapshot-file": str(overlay), "format": "qcow2"}

    (said,) = found(which, disk, ("blockdev-snapshot-sync", snapshot))

    assert str(overlay) in said
    assert f"was started with {image}" in said


@pytest.mark.parametrize("which", qemus.WHICH)
def test_a_job_on_a_disk_is_named(which: str, tmp_path: Path) -> None:
    image, copy = tmp_path / "a.img", tmp_path / "b.img"
    image.write_bytes(bytes(1 << 20))
    disk = ["-drive", f"file={image},format=raw,if=virtio,id=d"]
    mirror = {"device": "d", "target": str(copy), "sync": "full", "format": "raw"}

    (said,) = found(which, disk, ("drive-mirror", mirror))

    assert "mirror d" in said


@pytest.mark.parametrize(
    ("now", "says"),
    [
        (AT_START, []),
        (Hardware((), 1, AT_START.disks), ["nic (e1000e) was removed"]),
        (Hardware(AT_START.devices, 2, AT_START.disks), ["2 processors"]),
        (Hardware(AT_START.devices, 1, (("cd", ""), ("virtio0", "a.img"))), ["cd has no image"]),
        (Hardware(AT_START.devices, 1, (("cd", "a.iso"), ("virtio0", "b.img"))), ["virtio0 has b.img"]),
    ],
)
def test_each_change_is_a_sentence(now: Hardware, says: list[str]) -> None:
    said = changes(AT_START, now)

    assert len(said) == len(says)
    assert all(part in sentence for part, sentence in zip(says, said, strict=True))


SLEEPS = bytes.fromhex("ba0406 b80024 ef f4 ebfd").ljust(510, b"\0") + b"\x55\xaa"
"""A boot sector: mov dx, PM1a_CNT; mov ax, SLP_EN and S3; out dx, ax; hlt for ever."""


@pytest.mark.parametrize("which", qemus.WHICH)
def test_a_guest_that_sleeps_is_not_carried(which: str, tmp_path: Path) -> None:
    """It would be paused in the next kernel, and nothing would wake it."""
    disk = tmp_path / "disk"
    disk.write_bytes(SLEEPS.ljust(1 << 20, b"\0"))
    drive = ["-drive", f"file={disk},format=raw"]
    guest = plan(["-M", "q35", "-m", "64M", "-display", "none", "-S", *drive], qemus.capabilities(which))

    async def asked(monitor: socket.socket) -> tuple[str, ...]:
        async with await Qmp.connected(monitor) as qmp, qmp.events("SUSPEND") as following:
            sleeps = following()
            await qmp.execute("cont")
            await asyncio.wait_for(sleeps, 60)
            return await vetoes(qmp)

    with memory(guest.ram_bytes) as ram, qemus.started(guest, ram) as monitor:
        (veto,) = asyncio.run(asked(monitor))
    assert "it sleeps (ACPI S3)" in veto
