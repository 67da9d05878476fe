"""H15: a kexec that the kernel refuses after luod's part of `luoctl update --systemd` ends in a cold reboot.

The sessions are lost. What the operator reads in the next boot must say so.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

import pytest

from luod.testing.kernel.machine import KernelMachine
from tests.systemd.conftest import BOOT_SECONDS, SystemdHost, disk_image

pytestmark = [
    pytest.mark.jumps_on,
    pytest.mark.timeout(900),  # the first has a boot, an update and another boot before it
    pytest.mark.real_kernel("systemd reboots the machine from its firmware, and an emulated one ends there"),
]

GUESTS: Final = ("a", "b")
_NOT_UPDATED: Final = 9
_RESETS: Final = ("-action", "reboot=reset")
"""Of QEMU: a reboot starts the machine again. Its disk keeps what was written."""
_UNLOADS: Final = "#!/bin/sh\nexec kexec --unload\n"
"""systemd-shutdown runs it last, after it has preserved its file descriptors."""


@pytest.fixture(scope="module")
def host(machine_kind: str) -> Iterator[SystemdHost]:
    """Yields a machine that can be rebooted."""
    assert machine_kind == "kernel"
    with KernelMachine(disk=disk_image(), timeout=BOOT_SECONDS, arguments=_RESETS) as machine:
        host = SystemdHost(machine)
        host.until_ready()
        yield host


@pytest.fixture(scope="module")
def update(host: SystemdHost) -> str:
    """Makes an update by systemd end in a cold reboot, and returns its id. luod answers again."""
    host.start_guests(*GUESTS)
    host.write("/usr/lib/systemd/system-shutdown/unload", _UNLOADS, mode=0o755)
    host.sh("luoctl load --kernel /boot/vmlinuz")
    with host.machine.expect_jump(timeout=BOOT_SECONDS):
        said = host.sh("luoctl update --systemd --detach", seconds=BOOT_SECONDS)
    host.until_ready()
    found = re.search(r"luoctl wait --update ([0-9a-f]{8})", said)
    assert found is not None, said
    return found[1]


def test_h15_wait_says_that_the_update_did_not_reach_the_next_kernel(host: SystemdHost, update: str) -> None:
    said = host.sh(f"luoctl wait --update {update} --timeout 60; echo status $?", check=False)

    assert f"status {_NOT_UPDATED}" in said, said


def test_h15_the_timeline_says_that_the_update_is_lost(host: SystemdHost, update: str) -> None:
    assert "nothing of it reached the next kernel" in host.sh("luoctl timeline")


def test_h15_the_journal_names_every_session_that_is_lost(host: SystemdHost, update: str) -> None:
    said = host.sh("journalctl -b -u luod -o verbose --no-pager LUOD_EVENT=session-lost")

    assert set(GUESTS) <= set(re.findall(r"LUOD_SESSION=(\S+)", said))
    assert f"LUOD_UPDATE={update}" in host.sh("journalctl -b -o verbose --no-pager LUOD_EVENT=update-lost")


def test_h15_the_guests_start_cold_and_take_part_in_the_next_update(host: SystemdHost, update: str) -> None:
    host.until_take_part(len(GUESTS))

    assert host.sessions() == set(GUESTS)
    for name in GUESTS:
        assert "resumes at" not in host.sh(f"journalctl -b -u vmm@{name} -o cat --no-pager")
