"""Debian's kexec-tools, unmodified, load the machine's kernel and jump."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable

import pytest

from tests.emulator.machine.conftest import PLAIN_USER

Run = Callable[..., "subprocess.CompletedProcess[str]"]

SCRIPT = """
set -e
if [ $LUOEMU_BOOT = 2 ]; then cat /sys/kernel/kexec_loaded /proc/cmdline; exit 33; fi
cat /sys/kernel/kexec_loaded
kexec -l %s --reuse-cmdline --append=more $LUOEMU_KERNEL
cat /sys/kernel/kexec_loaded
kexec %s -u
cat /sys/kernel/kexec_loaded
kexec -l %s --reuse-cmdline --append=more $LUOEMU_KERNEL
kexec -e
"""


@pytest.fixture
def kexec_tools() -> None:
    if shutil.which("kexec") is None:
        pytest.skip("kexec-tools is not installed")


@pytest.mark.usefixtures("kexec_tools")
@pytest.mark.parametrize("user", [None, PLAIN_USER], ids=["own uid", "uid 1000"])
@pytest.mark.parametrize("option", ["-s", "-c"])
def test_load_unload_and_jump(run_machine: Run, option: str, user: int | None) -> None:
    if option == "-c" and user is not None:
        pytest.skip("without root /proc/iomem hides the addresses that kexec_load needs")
    done = run_machine(["sh", "-c", SCRIPT % (option, option, option)], user=user)
    assert done.returncode == 33, done.stderr
    assert done.stdout == "0\n1\n0\n0\nliveupdate=on kho=on more\n"
