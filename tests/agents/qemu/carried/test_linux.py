"""A Linux guest: its network over an update."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from demo.qemu.console import Console
from demo.qemu.linux_guest import LinuxGuest
from demo.qemu.scenario import Story
from luod.errors import MachineUnavailable
from luod.testing import Machine
from luod.testing.kernel.qemu import kernel_image
from luod.testing.tools import cannot_run
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
