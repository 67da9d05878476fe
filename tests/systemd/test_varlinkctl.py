"""systemd's own Varlink client on a host with luod: it passes files, takes a session's fd, and follows an update."""

from __future__ import annotations

import re

from tests.systemd.conftest import SOCKET, SystemdHost

WITH_MEMFD = f"""
import os
from luod.linux import memfd
with memfd("state", 0) as file:
    os.write(file.fileno(), b"what the VMM keeps")
    os.set_inheritable(file.fileno(), True)
    call = '{{"name":"kept","files":[{{"name":"state","file_fd":0}}]}}'
    command = ["varlinkctl", "call", f"--push-fd={{file.fileno()}}", "{SOCKET}", "io.luod.Sessions.Stash", call]
    os.execvp(command[0], command)
"""


def test_varlinkctl_gives_a_command_the_fd_of_a_session(host: SystemdHost) -> None:
    link = host.create("by-hand")

    assert "[luo_session]" in link
    assert host.sh("luoctl list --names") == "by-hand"
    host.sh("luoctl release by-hand")


def test_varlinkctl_passes_a_file_and_gets_it_back(host: SystemdHost) -> None:
    host.write("/run/stash.py", WITH_MEMFD)
    host.sh("python3 /run/stash.py")

    unstash = f"""varlinkctl --exec call {SOCKET} io.luod.Sessions.Unstash '{{"name":"kept"}}'"""
    found = host.sh(f"{unstash} -- sh -c 'cat; cat /proc/self/fd/3'")

    assert '"file_fd":0' in re.sub(r"\s", "", found)
    assert found.endswith("what the VMM keeps")
    host.sh(f"""varlinkctl call {SOCKET} io.luod.Sessions.DropStash '{{"name":"kept"}}'""")


def test_varlinkctl_passes_a_file_of_another_kind_and_is_told(host: SystemdHost) -> None:
    call = '{"name":"kept","files":[{"name":"state","file_fd":0}]}'
    said = host.sh(f"varlinkctl call --push-fd=/etc/passwd {SOCKET} io.luod.Sessions.Stash '{call}'", check=False)

    assert "io.luod.Sessions.Refused" in said


def test_varlinkctl_follows_an_update(host: SystemdHost) -> None:
    follow = """io.luod.Updates.Follow '{"name":"watcher"}'"""
    host.sh(f"systemd-run --unit watcher varlinkctl call --json=short --more --timeout=infinity {SOCKET} {follow}")
    said = "journalctl -b -u watcher -o cat --no-pager"
    host.until(said, '"following"', "varlinkctl follows")
    host.sh("luoctl load --kernel /boot/vmlinuz && (luoctl update --deadline 100 >/run/update 2>&1 &)")
    host.until(said, '"preparing"', "the update asks varlinkctl")

    host.sh("luoctl abort")

    host.until(said, '"cancelled"', "varlinkctl is told")
    host.sh("systemctl stop watcher")
