"""What an operator does on a host with systemd: metrics, stopping, a command of the policy, the journal."""

from __future__ import annotations

import re

import pytest

from luod.daemon.journald import MESSAGE_IDS
from tests.systemd.conftest import SystemdHost

COMMANDS = "/usr/local/libexec"
HOLDER = """
import luod, time
with luod.Client() as client:
    session = client.create("of-daemon")
    print("created", flush=True)
    time.sleep(3600)
"""


def test_luod_finds_another_users_process_that_has_a_session_open(host: SystemdHost) -> None:
    """luod sees the files of processes of all users, without the capability to write to them."""
    host.write("/run/holder.py", HOLDER)
    host.sh("systemd-run --unit holder --uid daemon python3 /run/holder.py")
    host.until("journalctl -b -u holder -o cat --no-pager", "created", "a process of another user has a session")

    released = host.sh("luoctl release of-daemon", check=False)

    host.sh("systemctl stop holder && luoctl release of-daemon")
    assert re.search("'of-daemon' is in use: process [0-9]+ has it open", released)


def test_pid_1_and_logind_show_that_no_kexec_follows(host: SystemdHost) -> None:
    """luod asks them in an update, after a `systemctl kexec` whose end is unclear."""
    ask = "from luod.daemon.systemd import units; print(units.may_end_kernel())"

    assert host.sh(f"python3 -c '{ask}'").strip() == "False"


def test_stop_is_left_to_systemd_and_loses_nothing(host: SystemdHost) -> None:
    host.create("by-hand")

    refused = host.sh("luoctl stop --drop", check=False)

    assert "systemd runs luod, and would start it again" in refused
    assert "systemctl stop luod.service luod.socket luod-admin.socket" in refused
    host.sh("systemctl stop luod.service luod.socket luod-admin.socket")
    assert "no process listens at /run/luod/admin.sock" in host.sh("luoctl status", check=False)
    assert host.sh("systemctl is-active luod.service", check=False) == "inactive"
    host.sh("systemctl start luod.service")
    assert host.sh("luoctl list --names") == "by-hand"
    host.sh("luoctl release by-hand")


def test_metrics_are_written_by_the_timer(host: SystemdHost) -> None:
    place = "/var/lib/prometheus/node-exporter"
    host.sh(f"mkdir -p {place} && systemctl enable --now luod-metrics.timer")

    host.until(f"cat {place}/luod.prom", "luod_up 1.0", "the timer writes metrics")

    assert host.sh(f"stat -c %a {place}/luod.prom") == "644"
    assert host.sh("systemctl show --property Result --value luod-metrics.service") == "success"
    host.sh("systemctl disable --now luod-metrics.timer")


def test_metrics_without_their_directory_are_not_written_and_say_so(host: SystemdHost) -> None:
    host.sh("rm -rf /var/lib/prometheus && systemctl start luod-metrics.service")

    said = host.sh("journalctl -b -u luod-metrics -o cat --no-pager | tail -n 1")

    assert re.search("skipped.*unmet condition.*ConditionPathIsDirectory=/var/lib/prometheus/node-exporter", said)


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("/root/hook", "/root/hook: No such file or directory; luod.service has /home, /root"),
        ("/tmp/hook", "/tmp/hook: No such file or directory; luod.service has /home, /root"),
        (f"{COMMANDS}/missing", f"{COMMANDS}/missing: No such file or directory"),
    ],
)
def test_a_hook_that_the_unit_hides_refuses_the_update_and_says_why(
    host: SystemdHost, program: str, reason: str
) -> None:
    for place in ("/root/hook", "/tmp/hook"):
        host.write(place, "#!/bin/sh\n", mode=0o755)
    host.write("/etc/luod/luod.toml", f'[hooks]\nbefore-update = ["{program}"]\n')
    host.sh("systemctl reload luod.service && luoctl load --kernel /boot/vmlinuz")

    said = host.sh("luoctl update", check=False)

    assert reason in " ".join(said.split())


def test_each_event_of_the_catalogue_is_explained(host: SystemdHost) -> None:
    source = (
        "import time; from luod.daemon.journald import MESSAGE_IDS, Journal\n"
        "end = time.monotonic() + 60\n"
        "for event in MESSAGE_IDS:\n"
        "    fields = dict(update='u-1', name='s-1', sessions='2', torn='1', reason='a reason', error='an error',\n"
        "                  what='a thing', hook='before-update', pid='7', missing='3', units='u')\n"
        "    while True:\n"
        "        try:\n"
        "            Journal('test').send(4, event, f'{event} of a test', fields)\n"
        "            break\n"
        "        except BlockingIOError:  # the journal has not taken the last ones\n"
        "            assert time.monotonic() < end\n"
    )
    host.write("/run/events.py", source)
    host.sh("python3 /run/events.py && journalctl --sync")

    told = host.sh("journalctl -b -x -o short --no-pager LUOD_PROGRAM=test")

    for event in MESSAGE_IDS:
        explained = told.partition(f"{event} of a test")[2].partition(" of a test")[0]
        assert "Defined-By: luod" in explained, event
        assert "Documentation: man:luod(8)" in explained, event
        # journalctl shows the name of a field that an event lacks.
        assert "LUOD_" not in explained, f"{event}: {explained}"


def test_luod_is_started_again_however_often_it_has_ended(host: SystemdHost) -> None:
    for _ in range(7):
        host.sh("systemctl restart luod")

    host.until_ready()
