"""A unit with LUOSession=, whose session PID 1 creates, beside luod: through an update of each way."""

from __future__ import annotations

import pytest

from tests.systemd.conftest import SystemdHost

pytestmark = [
    pytest.mark.jumps_on,
    pytest.mark.real_kernel("systemd knows a session by its anonymous inode, which an emulated one has not"),
]

_KEEPER = """
import errno
import fcntl
import os
import time

from luod.uapi import liveupdate

session = 3 + os.environ["LISTEN_FDNAMES"].split(":").index("state")
memory = os.memfd_create("state")
os.write(memory, b"state")
request = liveupdate.SESSION_PRESERVE_FD
try:
    fcntl.ioctl(session, liveupdate.LIVEUPDATE_SESSION_PRESERVE_FD, bytearray(request.pack(request.size, memory, 7)))
    print("a session for this kernel", flush=True)
except OSError as error:
    print("the session of the last kernel:", errno.errorcode[error.errno], flush=True)
time.sleep(1 << 20)
"""
_UNIT = """
[Service]
ExecStart=/usr/bin/python3 /opt/keeper.py
LUOSession=state
FileDescriptorStorePreserve=yes
FileDescriptorStoreMax=4

[Install]
WantedBy=multi-user.target
"""
_JOURNAL = "journalctl -b -o cat --no-pager -u"


@pytest.fixture(scope="module", autouse=True)
def units(host: SystemdHost) -> None:
    """Starts a VMM with a session of luod, and a unit with one of PID 1."""
    host.machine.write("/opt/keeper.py", _KEEPER.encode())
    host.machine.write("/etc/systemd/system/keeper.service", _UNIT.encode())
    host.start_guests("a")
    host.sh("systemctl enable --now keeper.service")
    until_it_has(host, "a session for this kernel")
    until_ready(host)


def until_it_has(host: SystemdHost, what: str) -> None:
    host.until(f"{_JOURNAL} keeper", what, "the unit tells what its session is")


def until_ready(host: SystemdHost) -> None:
    host.until("luoctl status", "participants  1", "the VMM takes part")
    host.sh("luoctl load --kernel /boot/vmlinuz")


def update(host: SystemdHost, way: str) -> None:
    with host.machine.expect_jump(timeout=300):
        host.sh(f"luoctl update {way}", check=False, seconds=300)
    host.until_ready()
    host.resumed_at("a")


def test_luod_does_not_list_the_session_of_pid_1(host: SystemdHost) -> None:
    assert host.sh("luoctl list --names").split() == ["a"]


def test_the_unit_has_an_empty_session_after_an_update_by_luod_which_a_dry_run_names(host: SystemdHost) -> None:
    said = host.sh("luoctl update --direct --dry-run", check=False)
    assert "unit-sessions: these units have sessions of systemd (LUOSession=): keeper.service" in said

    update(host, "--direct")

    until_it_has(host, "a session for this kernel")
    until_ready(host)


def test_the_unit_has_its_session_after_an_update_by_systemd_and_cannot_use_it_again(host: SystemdHost) -> None:
    update(host, "--systemd")

    until_it_has(host, "the session of the last kernel: EINVAL")
