"""The collection over real connections of ssh: it installs luod, and updates by a kexec that closes no connection.

The options of ssh are Ansible's own: a master connection that is kept for 60 s, and no keep-alive.
"""

from __future__ import annotations

import re
import time

import pytest

from tests.fleet.ssh.conftest import Controller
from tests.library import ROOT
from tests.systemd.conftest import SystemdHost

pytestmark = pytest.mark.jumps_on

_MARK = "luod.rollout=1"
"""A parameter that no program reads: with it the same image is another kernel to update into."""
_IDLE_SECONDS = 3600


@pytest.fixture(scope="module")
def install(controller: Controller) -> dict[str, object]:
    """Returns the variables of the role `install`."""
    debs = ["python3-luod", "luod"]
    found = [str(path) for name in debs for path in (ROOT / "build/deb").glob(f"{name}_*.deb")]
    assert len(found) == len(debs), "`make deb` builds the packages"
    policy = controller.write("luod.toml", "restore-deadline = 900\n")
    return {"install_debs": found, "install_policy": policy}


def test_the_role_install_brings_luod_and_a_second_run_changes_nothing(
    controller: Controller, host: SystemdHost, install: dict[str, object]
) -> None:
    first = controller.apply("luod.host.install", install)

    assert first.status == 0, first.said
    assert first.changed > 0
    assert host.sh("systemctl is-active luod.service; systemctl is-enabled luod.service") == "active\nenabled"
    assert "restore-deadline" in host.sh("cat /etc/luod/luod.toml")
    assert 'Automatic-Reboot "false"' in host.sh("apt-config dump Unattended-Upgrade")

    second = controller.apply("luod.host.install", install)

    assert (second.status, second.changed) == (0, 0), second.said
    assert host.sh("systemctl is-active luod.service") == "active"


def test_a_direct_kexec_leaves_connections_open_and_the_roll_out_ends_with_the_host_updated(
    controller: Controller, host: SystemdHost
) -> None:
    host.start_guests("a")
    update = {
        "live_update_kernel": "/boot/vmlinuz",
        "live_update_cmdline": f"{host.sh('cat /proc/cmdline').strip()} {_MARK}",
        "live_update_way": "direct",
    }
    with controller.ssh(f"echo there; exec sleep {_IDLE_SECONDS}") as idle:
        try:
            assert idle.stdout is not None
            assert idle.stdout.readline() == b"there\n"
            began = time.monotonic()

            with host.machine.expect_jump(timeout=60):
                played = controller.play("luod.host.update", update)

            print(played.said, f"the roll-out took {time.monotonic() - began:.0f} s")
            assert idle.poll() is None, "the kexec has not closed the connection, whose peer is gone"
        finally:
            idle.kill()
    assert played.status == 0, played.said
    assert re.search(r"vmhost: update \w+ done, Linux .*; ([1-9]) of \1 sessions carried", played.said), played.said
    assert (host.machine.boot, _MARK in host.sh("cat /proc/cmdline")) == (2, True)
    assert host.resumed_at("a") > 0

    again = controller.play("luod.host.update", update)

    assert (again.status, again.changed) == (0, 0), again.said
    assert "nothing to do, /boot/vmlinuz runs already" in again.said
