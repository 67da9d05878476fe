"""A static C program is luod and a VMM with a device, as the document writes them, from open to FINISH."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable

import pytest

from luod.testing.tools import cannot_run
from tests.emulator.machine.conftest import DEVICE, PLAIN_USER, as_plain_user, environment, luoemu

Run = Callable[..., "subprocess.CompletedProcess[str]"]

RULES = ["v2", "v5"]


@pytest.mark.parametrize("rules", RULES)
def test_from_open_to_finish(run_machine: Run, vmm: str, rules: str) -> None:
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        cannot_run("no /dev/fuse that this uid may use, and devices need it: modprobe fuse, as root")
    done = run_machine([vmm], *DEVICE, "--vfio-rules", rules)
    assert (done.returncode, done.stdout) == (0, "carried\n"), done.stderr


@pytest.mark.parametrize("rules", RULES)
def test_from_open_to_finish_as_a_plain_user(vmm: str, rules: str) -> None:
    """A plain user's machine has no BARs that can be mapped."""
    command = as_plain_user(*luoemu(*DEVICE, "--vfio-rules", rules, user=PLAIN_USER), vmm)
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        env=environment(PLAIN_USER),
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (0, "carried\n"), done.stderr
