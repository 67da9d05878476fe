"""A Linux guest: its memory, its clocks and its network over an update."""

from __future__ import annotations

import itertools
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from demo.qemu.console import Console
from demo.qemu.linux_guest import LinuxGuest
from demo.qemu.scenario import Story
from luod.errors import MachineUnavailable
from luod.testing import Machine, eventually
from luod.testing.kernel.qemu import kernel_image
from luod.testing.tools import cannot_run, require_tool
from tests.agents.qemu.carried.host import qemu
from tests.daemon.host import Luod

pytestmark = pytest.mark.timeout(400)

ECHO = """
import socket, sys
with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=20) as client:
    client.sendall(b"hello guest\\n")
    print(client.makefile().readline(), end="")
"""


@pytest.fixture
def luod(machine: Machine, tmp_path: Path) -> Luod:
    """Returns a machine on which the story starts luod."""
    return Luod(machine, state_directory=tmp_path / "state")


@pytest.fixture
def console(tmp_path: Path) -> Iterator[Console]:
    with Console(tmp_path / "console") as console:
        yield console


def story(luod: Luod, guest: LinuxGuest, console: Console, folder: Path, *arguments: str) -> Story:
    """Returns the story of a guest that counts."""
    try:
        kernel_image()
    except MachineUnavailable as error:
        cannot_run(f"{error} ({error.hint})")
    story = Story(luod, guest, console, folder, qemu(), print, arguments)
    story.start()
    return story


def test_its_network_answers_again_at_the_same_addresses(luod: Luod, console: Console, tmp_path: Path) -> None:
    port = 7007
    guest = LinuxGuest(mebibytes=16, memory=160)
    networks = [
        *("-netdev", f"user,id=user,hostfwd=tcp:127.0.0.1:{port}-:7"),
        *("-device", "virtio-net-pci,netdev=user,addr=4,romfile="),
        *("-netdev", "tap,id=tap,ifname=tap0,script=no,downscript=no"),
        *("-device", "virtio-net-pci,netdev=tap,addr=5,romfile="),
    ]
    luod.machine.run(["busybox", "ifconfig", "lo", "up"])
    linux = story(luod, guest, console, tmp_path, *networks)
    set_up_tap(luod)
    for address in (("127.0.0.1", port), ("192.168.77.2", 7)):
        assert luod.run_source(ECHO, *address).text == "hello guest"

    linux.update()

    luod.machine.run(["busybox", "ifconfig", "lo", "up"])
    set_up_tap(luod)  # QEMU made the interface; its address is the host's matter
    for address in (("127.0.0.1", port), ("192.168.77.2", 7)):
        assert luod.run_source(ECHO, *address).text == "hello guest"


def set_up_tap(luod: Luod) -> None:
    luod.machine.run(["busybox", "ifconfig", "tap0", "192.168.77.1", "netmask", "255.255.255.0", "up"])


RAM, CHECKED = 384, 256
"""In MiB: the guest's RAM, and what of it the guest has a checksum of."""
TOUCHED = 16 << 20
"""Bytes that a process that handles 384 MiB of RAM would exceed by far, and one that never touches it does not."""


def test_its_memory_is_intact_and_neither_luod_nor_the_agent_touched_it(
    luod: Luod, console: Console, tmp_path: Path
) -> None:
    """The emulated kexec itself copies memory, in the machine's supervisor. tests/kernel/test_qemu.py shows by page
    frames that a real one does not.
    """
    linux = story(luod, LinuxGuest(mebibytes=CHECKED, memory=RAM, sum=assembled("sum", tmp_path)), console, tmp_path)

    linux.update()

    assert linux.agent is not None
    for name, pid in (("the agent", linux.agent.pid), ("luod", luod.supervisor_pid), ("luod-serve", luod.serve_pid())):
        mapped, copied = shared_memory(luod, pid), read_and_written(luod, pid)
        assert mapped < TOUCHED, f"{name} has {mapped} bytes of shared memory in its address space"
        assert copied < TOUCHED, f"{name} read and wrote {copied} bytes"
    linux.until_checked_again()


def shared_memory(luod: Luod, pid: int) -> int:
    """Returns the bytes of shared memory that a process has touched by its mappings."""
    status = luod.machine.read(f"/proc/{pid}/status").decode()
    (line,) = (line for line in status.splitlines() if line.startswith("RssShmem:"))
    return int(line.split()[1]) << 10


def read_and_written(luod: Luod, pid: int) -> int:
    """Returns the bytes that a process has read and written by system calls since its start."""
    lines = luod.machine.read(f"/proc/{pid}/io").decode().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(("rchar:", "wchar:")))


@dataclass(frozen=True)
class Clocks:
    """What a guest's clocks showed, in seconds, when its line came at `time`; `tsc` is a number of ticks."""

    time: float
    boottime: float
    realtime: float
    hardware: float
    monotonic: float
    tsc: float


PAUSE = 8.0
"""At least so long is the guest paused: longer than its clocks are read apart."""
FROM_LINE_TO_LINE = 3.0
"""Seconds between two lines of a guest that runs, under load."""


@pytest.mark.parametrize("rtc", ["host", "vm"])
def test_its_clocks_stand_while_it_is_paused_but_for_the_hardware_clock(
    luod: Luod, console: Console, tmp_path: Path, rtc: str
) -> None:
    """docs/qemu.md has the table. With `-rtc clock=vm` the hardware clock stands, too."""
    guest = LinuxGuest(mebibytes=1, memory=128, check=False, tsc=assembled("tsc", tmp_path))
    linux = story(luod, guest, console, tmp_path, "-rtc", f"base=utc,clock={rtc}")
    eventually(lambda: len(clocks(console)) >= 3, describe="the guest printed its clocks")
    first = clocks(console)[0]

    linux.update(pause=PAUSE)

    paused = len(clocks(console))
    eventually(lambda: len(clocks(console)) > paused, describe="the guest printed its clocks again")
    found = clocks(console)
    before, after = max(itertools.pairwise(found), key=lambda pair: pair[1].time - pair[0].time)
    assert after.time - before.time >= PAUSE
    for clock in ("boottime", "realtime", "monotonic"):
        assert 0 <= getattr(after, clock) - getattr(before, clock) < FROM_LINE_TO_LINE + 1, (clock, before, after)
    ticks = (before.tsc - first.tsc) / (before.monotonic - first.monotonic)
    assert 0 < after.tsc - before.tsc < ticks * (FROM_LINE_TO_LINE + 1), ("tsc", ticks, before, after)
    jumped = after.hardware - before.hardware
    assert jumped >= PAUSE - 1 if rtc == "host" else 0 <= jumped < FROM_LINE_TO_LINE + 1, (before, after)


def clocks(console: Console) -> list[Clocks]:
    """Returns what the guest has printed of its clocks."""
    lines = [(line.time, line.text.split()) for line in console.lines if line.text.startswith("clock ")]
    return [
        Clocks(time, float(up), float(real), float(rtc), int(now) / 1e9, float(tsc))
        for time, (_, up, real, rtc, now, tsc) in lines
    ]


def assembled(name: str, folder: Path) -> bytes:
    """Returns a program for the guest that is made of NAME.S, without a library."""
    source = Path(__file__).parents[1] / f"{name}.S"
    objects, program = folder / f"{name}.o", folder / name
    assembler, linker = (require_tool(tool, package="binutils") for tool in ("as", "ld"))
    subprocess.run([assembler, "--64", source, "-o", objects], check=True)
    subprocess.run([linker, objects, "-o", program], check=True)
    return program.read_bytes()
