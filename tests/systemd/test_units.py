"""Units of VMMs that are not in the next kernel what they were: their sessions wait in luod."""

from __future__ import annotations

import re

import pytest

from tests.systemd.conftest import SystemdHost

pytestmark = pytest.mark.jumps_on


def test_the_session_of_a_masked_unit_waits_in_luod_until_the_unit_is_started(host: SystemdHost) -> None:
    host.start_guests("a", "b")
    host.sh("systemctl mask vmm@b.service")
    try:
        host.update("--direct", guests=1)

        status = host.sh("luoctl status")

        assert "participants  1" in status
        assert re.search(r"incoming +[12] waiting", status)
        assert "b" in host.sessions()
    finally:
        host.sh("systemctl unmask vmm@b.service && systemctl start vmm@b.service")
    assert host.resumed_at("b") > 0
    host.until_take_part(2)


def test_an_update_by_systemd_is_refused_with_a_masked_unit_of_a_guest_which_is_named(host: SystemdHost) -> None:
    """PID 1 has forgotten what the unit says of the isolation, and would stop it while its guest runs."""
    host.start_guests("a", "b")
    host.sh("systemctl mask vmm@b.service && luoctl load --kernel /boot/vmlinuz")
    try:
        said = host.sh("luoctl update --systemd; echo status $?", check=False)
    finally:
        host.sh("systemctl unmask vmm@b.service && systemctl daemon-reload")

    assert "participant-stopped" in said
    assert "b (vmm@b.service)" in said
    assert "status 4" in said
    host.until_take_part(2)


@pytest.mark.parametrize("way", ["--direct", "--systemd"])
def test_a_renamed_unit_gets_the_session_of_its_guest(host: SystemdHost, way: str) -> None:
    host.start_guests("a", "b")
    host.sh("cp /etc/systemd/system/vmm@.service /etc/systemd/system/machine@.service && systemctl daemon-reload")
    host.sh("systemctl disable vmm@b.service && systemctl enable machine@b.service")
    host.update(way, guests=2)

    said = host.until("journalctl -b -u machine@b -o cat --no-pager", "resumes at", "the guest resumes")

    assert "b: resumes at" in said
    host.sh("systemctl disable --now machine@b.service")
