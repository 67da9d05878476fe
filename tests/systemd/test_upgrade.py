"""luod's package is upgraded while guests run: in an update, to a newer format of the registry, and back."""

from __future__ import annotations

import pytest

from tests.systemd.conftest import SystemdHost

pytestmark = [pytest.mark.jumps_on, pytest.mark.timeout(900)]

LATER = "dpkg --install /opt/later/*.deb"
EARLIER = "dpkg --install /opt/present/*.deb"
STORED = "systemd-analyze --no-pager fdstore luod.service | grep -v inhibitor | sort"
RESTART_LATER = "luod is updating the kernel; restart it later: systemctl restart luod.service"
INSTALL_SECONDS = 500.0
"""dpkg compiles every module, which takes long on an emulated processor."""


@pytest.fixture(scope="module", autouse=True)
def guests(host: SystemdHost) -> None:
    host.start_guests("a", "b")


def test_an_update_goes_on_after_an_upgrade_and_arrives_at_the_newer_luod(host: SystemdHost) -> None:
    host.sh("luoctl load --kernel /boot/vmlinuz")
    luod = host.pid("luod.service")
    with host.machine.expect_jump(timeout=300):
        with host.stopped_guest("a"):
            host.sh("luoctl update --deadline 900 >/run/update 2>&1 &")
            host.until("luoctl status", "preparing", "the update waits for the VMM")

            said = host.sh(LATER, seconds=INSTALL_SECONDS)

            assert RESTART_LATER in said
            assert host.pid("luod.service") == luod
            status = host.sh("luoctl status")
            assert "preparing" in status
            assert "restart" in status
        host.until("luoctl status", "jumping", "the update goes on")
    host.until_take_part(2)

    assert "+later" in host.sh("luoctl status")
    assert host.resumed_at("a") > 0
    assert host.resumed_at("b") > 0
    assert host.sessions() == {"a", "b"}


def test_an_abort_after_an_upgrade_cancels_the_update_and_luod_runs_on(host: SystemdHost) -> None:
    host.sh("luoctl load --kernel /boot/vmlinuz")
    luod = host.pid("luod.service")
    with host.stopped_guest("a"):
        host.sh("luoctl update --deadline 900 >/run/update 2>&1 &")
        host.until("luoctl status", "preparing", "the update waits for the VMM")
        said = host.sh(LATER, seconds=INSTALL_SECONDS)

        host.sh("luoctl abort")

    assert RESTART_LATER in said
    host.until("luoctl status", "idle", "the update is cancelled")
    assert host.pid("luod.service") == luod
    host.until_take_part(2)
    assert host.sessions() == {"a", "b"}


def test_an_older_luod_refuses_the_newer_registry_with_words_and_the_newer_goes_on(host: SystemdHost) -> None:
    host.sh("systemctl stop vmm@a vmm@b")
    host.create("by-hand")
    sessions, stored = host.sessions(), host.sh(STORED)

    host.sh(EARLIER, seconds=INSTALL_SECONDS)

    said = host.until("luoctl list || true", "the state of a newer luod", "the older luod answers")
    assert "+later" in said
    assert host.sh(STORED) == stored
    assert host.sh("systemctl is-active luod.service") == "active"
    host.sh(LATER, seconds=INSTALL_SECONDS)
    host.until("luoctl status", "+later", "the newer luod answers")
    assert host.sessions() == sessions
    assert "by-hand" in sessions
    host.sh("luoctl release by-hand")
