"""What luoemu does and tells where it has fewer rights than root: without user namespaces, and in containers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from luod.emulator.machine.namespaces import remedy
from luod.testing.tools import for_root
from tests.emulator.machine.conftest import ROOT, environment, luoemu

COVERS = """
import os, sys
from luod.emulator.machine import namespaces
namespaces.syscall("unshare", namespaces.CLONE_NEWNS)
namespaces.make_private()
namespaces.bind("/dev/null", "/proc/version")
os.execvp(sys.argv[1], sys.argv[1:])
"""
FILTERS = """
import errno, os, sys
from tests.programs.denial import deny
deny(sys.argv[1], errno.EPERM)
os.execvp(sys.argv[2], sys.argv[2:])
"""
WITHOUT_NETWORKS = ["setpriv", "--inh-caps=-net_admin", "--bounding-set=-net_admin"]


def test_a_restriction_by_apparmor_is_named(tmp_path: Path) -> None:
    setting = tmp_path / "apparmor_restrict_unprivileged_userns"
    setting.write_text("1\n")
    assert "sysctl kernel.apparmor_restrict_unprivileged_userns=0" in remedy(str(setting))
    setting.write_text("0\n")
    assert "AppArmor" not in remedy(str(setting))
    assert "AppArmor" not in remedy(str(tmp_path / "no such file"))


def test_a_container_with_the_right_to_mount_only_has_a_machine() -> None:
    """CAP_SYS_ADMIN without CAP_NET_ADMIN: the kernel makes a network namespace, whose interfaces stay down."""
    if os.geteuid() != 0:
        for_root("to give up a capability")
    done = subprocess.run(
        [*WITHOUT_NETWORKS, *luoemu(), "sh", "-c", "id -u; cat /sys/class/net/lo/flags"],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split()[0] == "0"


def test_a_container_that_hides_parts_of_proc_is_told_what_to_do() -> None:
    if os.geteuid() != 0:
        for_root("to cover a file of /proc")
    done = subprocess.run(
        [sys.executable, "-c", COVERS, *WITHOUT_NETWORKS, *luoemu(), "true"],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 125
    assert "--security-opt unmask=ALL" in done.stderr
    assert "/proc cannot be mounted in a user namespace: " in done.stderr, "the kernel refuses it only there"


@pytest.mark.parametrize("call", ["process_vm_readv", "pidfd_getfd"])
def test_a_container_whose_filter_hides_the_processes_of_the_machine_has_none(call: str) -> None:
    """Docker's filter did so with CAP_SYS_ADMIN: the machine booted, and every call was the host's."""
    done = subprocess.run(
        [sys.executable, "-c", FILTERS, call, *luoemu(), "true"],
        env={**environment(), "PYTHONPATH": os.pathsep.join([str(ROOT), environment()["PYTHONPATH"]])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 125
    assert f"this host forbids {call}(2)" in done.stderr
    assert "--security-opt seccomp=unconfined" in done.stderr
