"""Guests of QEMU as units, luod-qemu@NAME: they count on through updates by each way, and while luod is started again.

The root directory of these tests has the QEMU of Debian sid. They run in the emulated machine only.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from luod.testing import eventually
from tests.agents.qemu.guests import DISK_SIZE, CountingGuest, boot_sector, parse
from tests.systemd.conftest import BOOT_SECONDS, QEMU_ROOT, SystemdHost, boot

pytestmark = pytest.mark.jumps_on

QEMU = "/usr/bin/qemu-system-x86_64"
MORE = 10
"""Numbers after which a guest certainly runs."""


@pytest.fixture(scope="module")
def host() -> Iterator[SystemdHost]:
    with boot("emulated", root=QEMU_ROOT) as machine:
        host = SystemdHost(machine)
        host.until_ready()
        yield host


class UnitGuest:
    """A counting guest in the machine. `copy` is its counterpart outside, for what is looked at there."""

    def __init__(self, host: SystemdHost, name: str, folder: Path) -> None:
        self._host = host
        self.name = name
        self.unit = f"luod-qemu@{name}"
        self._inside = CountingGuest(name, Path("/var/lib/vm", name))
        self._copy = CountingGuest(name, folder)
        host.sh(f"mkdir -p {self._inside.folder}")
        host.machine.write(str(self._inside.disk), boot_sector(folder))
        host.sh(f"truncate -s {DISK_SIZE} {self._inside.disk}")

    @property
    def command(self) -> str:
        """Returns QEMU and its arguments, for a shell."""
        return shlex.join([QEMU, *self._inside.arguments()])

    def enable(self) -> None:
        """Starts it by its unit, now and in each kernel to come."""
        self._host.write(f"/etc/luod/qemu/{self.name}.args", f"# of a test\n{self.command}\n")
        self._host.sh(f"systemctl enable --now {self.unit}")

    def numbers(self) -> list[int]:
        return parse(self._host.machine.read(str(self._inside.console)))

    def counts_on(self) -> int:
        """Waits until it has printed some numbers more. Returns how many it printed."""
        before = len(self.numbers())
        eventually(
            lambda: len(self.numbers()) > before + MORE,
            within=BOOT_SECONDS,
            describe=f"{self.name} counts on from {before}",
        )
        return len(self.numbers())

    def said(self) -> str:
        """Returns what its unit printed in this boot."""
        return self._host.sh(f"journalctl -b -u {self.unit} -o cat --no-pager")

    def assert_nothing_is_lost(self) -> None:
        """Checks that no number is missing or there twice, and that its disk agrees."""
        for inside, copy in ((self._inside.console, self._copy.console), (self._inside.disk, self._copy.disk)):
            copy.write_bytes(self._host.machine.read(str(inside)))
        self._copy.assert_nothing_is_lost()


@pytest.fixture(scope="module")
def guest(host: SystemdHost, tmp_path_factory: pytest.TempPathFactory) -> UnitGuest:
    guest = UnitGuest(host, "web", tmp_path_factory.mktemp("web"))
    guest.enable()
    host.until_take_part(1)
    guest.counts_on()
    return guest


def test_the_unit_continues_its_guest_after_updates_by_each_way(host: SystemdHost, guest: UnitGuest) -> None:
    for way in ("--direct", "--systemd", "--systemd", "--direct"):
        host.update(way, guests=1)

        guest.counts_on()
        guest.assert_nothing_is_lost()
        assert "web: goes on in this kernel" in guest.said(), way
        assert "is lost" not in guest.said(), way
        assert host.sessions() == {"web"}, way


@pytest.mark.parametrize("command", ["systemctl kill --signal KILL luod.service", "systemctl restart luod.service"])
def test_a_guest_runs_on_while_luod_is_started_again_and_gets_another_qemu_then(
    host: SystemdHost, guest: UnitGuest, command: str
) -> None:
    agent, luod = host.pid(guest.unit), host.pid("luod.service")

    host.sh(command)
    host.until_take_part(1)
    said = host.sh(f"luoctl qemu upgrade web --qemu {QEMU}")

    assert "web goes on with QEMU" in said
    assert (host.pid(guest.unit), host.pid("luod.service") != luod) == (agent, True)
    guest.counts_on()
    guest.assert_nothing_is_lost()


def test_an_update_by_systemd_is_refused_with_a_guest_in_a_unit_that_it_would_stop(
    host: SystemdHost, guest: UnitGuest, tmp_path: Path
) -> None:
    other = UnitGuest(host, "plain", tmp_path)
    host.sh(f"systemd-run --unit plain luoctl qemu run --name plain -- {other.command}")
    host.until_take_part(2)

    refused = host.sh("luoctl load --kernel /boot/vmlinuz; luoctl update --systemd; echo status $?", check=False)

    assert "participant-stopped" in refused
    assert "plain (plain.service)" in refused
    assert "status 4" in refused
    host.update("--direct", guests=1)
    other.enable()
    host.until_take_part(2)
    for each in (guest, other):
        each.counts_on()
        each.assert_nothing_is_lost()


def test_a_guest_whose_unit_is_stopped_leaves_no_session(host: SystemdHost, guest: UnitGuest) -> None:
    host.sh(f"systemctl disable --now {guest.unit}")

    assert "web" not in host.sessions()
    assert host.sh(f"systemctl show --property Result --value {guest.unit}") == "success"
    guest.assert_nothing_is_lost()
