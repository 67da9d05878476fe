"""luod as systemd's service: it may be killed, restarted and upgraded, and its guests live through updates in a row."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from tests.systemd.conftest import SECURITY, SystemdHost

pytestmark = pytest.mark.jumps_on

GUESTS = ("a", "b")


@pytest.fixture(scope="module", autouse=True)
def guests(host: SystemdHost) -> None:
    host.start_guests(*GUESTS)


def stored(host: SystemdHost) -> set[str]:
    """Returns the names of the sessions in PID 1's store of luod."""
    return set(re.findall(r"\.outgoing\.(\S+)", host.sh("systemd-analyze --no-pager fdstore luod.service")))


def test_pid_1_holds_every_session(host: SystemdHost) -> None:
    assert stored(host) == {"luod", *GUESTS}


def test_the_unit_is_hardened(host: SystemdHost, record_property: Callable[[str, object], None]) -> None:
    said = host.sh("systemd-analyze --no-pager security luod.service")

    record_property(SECURITY, said)
    exposure = re.search(r"Overall exposure level for luod.service: (\d+\.\d) ", said)
    assert exposure is not None, said
    assert float(exposure[1]) < 2.0


def test_systemd_has_no_complaint_about_the_units(host: SystemdHost) -> None:
    assert host.sh("systemd-analyze verify --man=no /usr/lib/systemd/system/luod*") == ""


def test_varlinkctl_finds_the_interfaces(host: SystemdHost) -> None:
    registry = host.sh("varlinkctl --no-pager list-registry")

    assert "method Create" in host.sh("varlinkctl --no-pager introspect /run/luod/luod.sock io.luod.Sessions")
    assert '"idle"' in host.sh("varlinkctl --json=short call /run/luod/admin.sock io.luod.Admin.Status")
    assert {"io.luod.Admin", "io.luod.Sessions", "io.luod.Updates"} <= set(registry.split())


@pytest.mark.parametrize("command", ["systemctl kill --signal KILL luod.service", "systemctl restart luod.service"])
def test_no_session_is_lost_when_every_process_of_luod_ends(host: SystemdHost, command: str) -> None:
    before = host.pid("luod.service")

    host.sh(command)
    host.until_take_part(len(GUESTS))

    assert host.pid("luod.service") != before
    assert host.sessions() == set(GUESTS)
    assert stored(host) == {"luod", *GUESTS}


def test_a_reload_reads_the_policy_and_ends(host: SystemdHost) -> None:
    host.sh("echo 'restore-deadline = 900' >/etc/luod/luod.toml && systemctl reload luod.service")

    assert "luod.toml" in host.sh("luoctl status")


def test_guests_live_through_three_updates_in_a_row(host: SystemdHost) -> None:
    counts = dict.fromkeys(GUESTS, 0)
    for boot in (2, 3, 4):
        host.sh("luoctl load --kernel /boot/vmlinuz")
        with host.machine.expect_jump(timeout=300):
            host.sh("luoctl update", check=False)
        host.until_ready()

        assert host.machine.boot == boot
        now = {name: host.resumed_at(name) for name in GUESTS}
        assert all(now[name] > counts[name] for name in GUESTS)
        counts = now
        host.until_take_part(len(GUESTS))
        assert host.sessions() == set(GUESTS)


def test_the_journal_tells_what_came_over_the_kexec(host: SystemdHost) -> None:
    said = host.sh("journalctl -b -u luod -o verbose --no-pager LUOD_EVENT=arrived")

    assert "LUOD_SESSIONS=" in said
    assert "luod took over the sessions" in host.sh("journalctl -b -x --no-pager LUOD_EVENT=arrived")


def test_a_kill_in_an_update_cancels_it_and_guests_run_on(host: SystemdHost) -> None:
    host.sh("luoctl load --kernel /boot/vmlinuz")
    with host.stopped_guest("a"):
        host.sh("luoctl update --deadline 60 >/tmp/update 2>&1 &")
        host.until("luoctl status", "preparing", "the update waits for the VMM")

        host.sh("systemctl kill --signal KILL luod.service")
    host.until_take_part(len(GUESTS))

    assert host.sessions() == set(GUESTS)
    assert "idle" in host.sh("luoctl status")


@pytest.mark.timeout(900)
def test_an_upgrade_of_the_package_restarts_luod_and_keeps_every_session(host: SystemdHost) -> None:
    before = [host.pid(f"vmm@{name}") for name in GUESTS]

    host.sh("dpkg --install /opt/later/*.deb", seconds=500)  # compiles every module on an emulated processor
    host.until_take_part(len(GUESTS))

    status = host.sh("luoctl status")
    assert "+later" in status
    assert "restart" not in status
    assert host.sessions() == set(GUESTS)
    assert [host.pid(f"vmm@{name}") for name in GUESTS] == before


def test_a_removal_that_would_end_sessions_is_refused(host: SystemdHost) -> None:
    said = host.sh("dpkg --remove luod", check=False)

    assert "luod holds these sessions" in said
    assert host.sessions() == set(GUESTS)
