"""PID 1's fd store of luod's unit: its maximum is lowered while luod runs, and copies are closed after a release."""

from __future__ import annotations

import pytest

from tests.systemd.conftest import SystemdHost

_DROP_IN = "/etc/systemd/system/luod.service.d/store.conf"
_SESSIONS = {"one", "two", "three"}
_STORED = "systemctl show --value --property NFileDescriptorStore luod.service"
_MOVED = """
import luod
from luod.liveupdate import memory

with luod.Client(patience=60) as client, memory(4096, "ram") as ram:
    for number in range(20):
        with client.create(f"moved-{number}") as session:
            session.preserve(ram, 1)
            session.release()
print("moved 20 times")
"""


def create(host: SystemdHost, name: str) -> str:
    """Creates a session that outlives its creator, and returns what that printed."""
    return host.sh(f"""python3 -c 'import luod; luod.Client(patience=60).create("{name}")'""", check=False)


def lower(host: SystemdHost, maximum: int) -> None:
    host.write(_DROP_IN, f"[Service]\nFileDescriptorStoreMax={maximum}\n")
    host.sh("systemctl daemon-reload")


@pytest.fixture(scope="module", autouse=True)
def sessions(host: SystemdHost) -> None:
    for name in _SESSIONS:
        assert create(host, name) == ""


def test_h8_a_maximum_that_is_lowered_while_luod_runs_is_noticed_and_no_session_is_lost(host: SystemdHost) -> None:
    host.sh("luoctl load --kernel /boot/vmlinuz")
    whole = int(host.sh(_STORED))

    lower(host, whole - 2)

    assert int(host.sh(_STORED)) == whole - 2
    said = create(host, "four")
    assert "systemd's store for luod's unit has no room for one more file" in said
    assert "raise FileDescriptorStoreMax= of luod.service" in said
    assert f"has {whole - 2} of {whole} files (FileDescriptorStoreMax={whole - 2})" in host.sh("luoctl status")
    assert 'luod_problems{of="fd_store"} 1.0' in host.sh("luoctl metrics")
    assert "LUOD_MISSING=2" in host.sh("journalctl -b LUOD_EVENT=pid-1-store -o export --no-pager")
    assert "store-incomplete" in host.sh("luoctl check --systemd", check=False)
    assert "store-full" in host.sh("luoctl check", check=False)

    host.sh(f"rm {_DROP_IN} && systemctl daemon-reload && systemctl reload luod.service")

    host.until("journalctl -b LUOD_EVENT=pid-1-store-again --no-pager || true", "pid-1-store-again", "PID 1 has all")
    assert int(host.sh(_STORED)) >= whole
    assert "fd store" not in host.sh("luoctl status")
    assert "store-" not in host.sh("luoctl check --systemd", check=False)
    host.sh("systemctl kill --signal KILL luod.service")
    host.until_ready()
    assert set(host.sh("luoctl list --names").split()) == _SESSIONS


def test_h9_a_file_of_a_released_session_can_be_preserved_in_another_at_once(host: SystemdHost) -> None:
    host.write("/opt/moved.py", _MOVED)

    assert "moved 20 times" in host.sh("python3 /opt/moved.py")
