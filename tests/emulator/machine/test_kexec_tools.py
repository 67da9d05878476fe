"""Debian's kexec-tools, unmodified, load the machine's kernel and jump."""

from __future__ import annotations

import subprocess
from collections.abc import Callable

import pytest

from luod.testing.tools import require_tool
from tests.emulator.machine.conftest import PLAIN_USER

Run = Callable[..., "subprocess.CompletedProcess[str]"]

SCRIPT = """
set -e
if [ $LUOEMU_BOOT = 2 ]; then cat /sys/kernel/kexec_loaded /proc/cmdline; exit 33; fi
cat /sys/kernel/kexec_loaded
"$1" -l $2 --reuse-cmdline --append=more $LUOEMU_KERNEL
cat /sys/kernel/kexec_loaded
"$1" $2 -u
cat /sys/kernel/kexec_loaded
"$1" -l $2 --reuse-cmdline --append=more $LUOEMU_KERNEL
"$1" -e
"""


@pytest.fixture
def kexec() -> str:
    return require_tool("kexec", package="kexec-tools")


@pytest.mark.parametrize(
    ("option", "user"),
    # Without root /proc/iomem hides the addresses that kexec_load needs: no -c there.
    [("-s", None), ("-c", None), ("-s", PLAIN_USER)],
    ids=["-s-own uid", "-c-own uid", "-s-uid 1000"],
)
def test_load_unload_and_jump(run_machine: Run, kexec: str, option: str, user: int | None) -> None:
    done = run_machine(["sh", "-c", SCRIPT, "sh", kexec, option], user=user)
    assert done.returncode == 33, done.stderr
    assert done.stdout == "0\n1\n0\n0\nliveupdate=on kho=on more\n"
