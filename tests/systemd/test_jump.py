"""`luoctl update --systemd`: other units stop while guests run, and every session goes through systemd's own kexec.

Also what guards it: a kexec by hand is refused, and a cancelled update leaves the host as before.
"""

from __future__ import annotations

import pytest

from tests.systemd.conftest import SystemdHost

pytestmark = pytest.mark.jumps_on

GUESTS = ("a", "b")
_LOADED = "cat /sys/kernel/kexec_loaded"
_SENTINEL = """
[Unit]
Description=A unit that takes a while to stop

[Service]
ExecStart=sleep infinity
ExecStop=sleep 15
"""
_VETO = """
import luod
with luod.Client(patience=60) as client:
    session = client.create("veto")
    with luod.Participant("veto", [session], client=client) as participant:
        while True:
            phase = participant.next()
            with phase:
                if phase.kind == "preparing":
                    phase.ready()
                elif phase.kind == "freezing":
                    phase.veto("its guest does not stop")
                elif phase.kind == "cancelled":
                    break
    session.close()
    client.discard("veto")
"""


def is_as_before(host: SystemdHost) -> None:
    """Checks that a cancelled update left nothing on the host."""
    units = "sentinel.service multi-user.target dbus.socket"
    host.until(f"systemctl show --property ActiveState {units} | tr -d '\\n'", "ActiveState=active" * 3, "units")
    host.until("systemctl is-active luod-quiesce.target || true", "inactive", "the target of the update is over")
    host.until_take_part(len(GUESTS))
    assert host.sh(_LOADED).strip() == "0"
    assert "idle" in host.sh("luoctl status")
    host.until("luoctl list --names | sort | tr '\\n' ' '; echo .", f"{' '.join(GUESTS)} .", "the guests' sessions")


@pytest.fixture(scope="module", autouse=True)
def guests(host: SystemdHost) -> None:
    host.start_guests(*GUESTS)
    host.machine.write("/etc/systemd/system/sentinel.service", _SENTINEL.encode())
    host.machine.write("/tmp/veto.py", _VETO.encode())
    host.sh("systemctl daemon-reload && systemctl start sentinel.service")


def test_a_dry_run_names_the_way_and_what_a_failed_kexec_would_lose(host: SystemdHost) -> None:
    host.sh("luoctl load --kernel /boot/vmlinuz")

    said = host.sh("luoctl update --systemd --dry-run")

    assert "systemd: it stops the units" in said
    assert "cold-reboot: 2 sessions would be lost" in said
    assert "checked" in said


def test_h13_a_kexec_by_hand_is_refused_and_names_luod(host: SystemdHost) -> None:
    host.until("luoctl status", "inhibited while luod holds sessions", "luod has the lock")

    by_script = host.sh("systemctl kexec || echo refused", check=False)
    by_hand = host.sh("systemctl kexec --check-inhibitors=yes || echo refused", check=False)  # as on a terminal

    assert "denied due to active block inhibitor" in by_script
    assert "refused" in by_script
    assert 'Operation inhibited by "luod"' in by_hand
    assert "luoctl update" in by_hand
    assert "refused" in by_hand


def test_luoctl_stop_says_how_to_stop_it(host: SystemdHost) -> None:
    said = host.sh("luoctl stop", check=False)

    assert "systemd runs luod" in said
    assert "systemctl stop luod.service" in said


def test_a_veto_after_the_units_were_stopped_starts_them_again_and_unloads_the_image(host: SystemdHost) -> None:
    host.sh("python3 /tmp/veto.py >/tmp/veto.log 2>&1 &")
    host.until("luoctl status", f"participants  {len(GUESTS) + 1}", "the one that vetoes takes part")

    said = host.sh("luoctl update --systemd; echo status $?", check=False, seconds=300)

    assert "veto vetoes: its guest does not stop" in said
    assert "status 5" in said
    host.until("journalctl -b -u sentinel -o cat --no-pager", "sentinel.service: Deactivated", "the unit was stopped")
    is_as_before(host)
    host.until("luoctl status", "inhibited while luod holds sessions", "luod has the lock again")


def test_luod_killed_while_units_are_stopped_starts_them_again(host: SystemdHost) -> None:
    host.sh("luoctl update --systemd >/tmp/update 2>&1 &")
    host.until("systemctl is-active sentinel.service || true", "deactivating", "units are being stopped")

    host.sh("systemctl kill --signal KILL luod.service")

    is_as_before(host)


def test_guests_live_through_three_updates_by_systemd_in_a_row(host: SystemdHost) -> None:
    host.sh("systemctl stop sentinel.service", seconds=60)
    counts = dict.fromkeys(GUESTS, 0)
    for boot in (2, 3, 4):
        host.sh("luoctl load --kernel /boot/vmlinuz")
        with host.machine.expect_jump(timeout=300):
            host.sh("luoctl update --systemd", check=False, seconds=300)
        host.until_ready()

        assert host.machine.boot == boot
        now = {name: host.resumed_at(name) for name in GUESTS}
        assert all(now[name] > counts[name] for name in GUESTS)
        counts = now
        host.until_take_part(len(GUESTS))
        assert "done, --systemd" in host.sh("luoctl timeline")
    print(host.sh("luoctl timeline; systemd-analyze time", check=False))
