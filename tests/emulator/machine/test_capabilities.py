"""The capabilities that a machine's processes have not, by what /proc says of them: no test uses one."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from luod.emulator.machine.capabilities import WITHHELD
from luod.testing.tools import cannot_run
from tests.emulator.machine.conftest import PLAIN_USER, RunDevices

Run = Callable[..., "subprocess.CompletedProcess[str]"]

SETS = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
_SHOW = """
    with open("/proc/self/status") as lines:
        print(*(line.split()[1] for line in lines if line.startswith("Cap")), flush=True)
    if BOOT == 1: jump()
"""


def sets(shown: str) -> dict[str, int]:
    return {name: int(value, 16) for name, value in zip(SETS, shown.split(), strict=True)}


@pytest.mark.parametrize("user", [None, PLAIN_USER])
def test_what_reaches_the_host_is_in_no_set_of_any_boot(run_machine: Run, user: int | None) -> None:
    done = run_machine(_SHOW, user=user, forked=False)  # an exec is what gives capabilities
    assert done.returncode == 0, done.stderr
    boots = done.stdout.splitlines()
    assert len(boots) == 2
    for boot in boots:
        for which, present in sets(boot).items():
            assert [name for name, number in WITHHELD.items() if present >> number & 1] == [], which


def test_a_program_of_root_keeps_what_concerns_the_machine(run_machine: Run) -> None:
    """An init mounts, makes namespaces, and calls reboot."""
    done = run_machine(["sh", "-c", "grep ^Cap /proc/self/status | cut -f 2"])
    present = sets(done.stdout)
    admin, boot, network = 21, 22, 12
    assert all(present[which] >> number & 1 for which in ("CapEff", "CapBnd") for number in (admin, boot, network))


def test_machines_with_devices_are_no_exception(run_devices: RunDevices) -> None:
    shown = run_devices(_SHOW.replace("if BOOT == 1: jump()", ""), forked=False)
    assert not any(sets(shown)["CapBnd"] >> number & 1 for number in WITHHELD.values())


def test_numbers_are_those_of_the_kernels_header() -> None:
    header = Path("/usr/include/linux/capability.h")
    if not header.exists():
        cannot_run("no linux/capability.h: install linux-libc-dev")
    words = [line.split() for line in header.read_text().splitlines() if line.startswith("#define CAP_")]
    defined = {word[1]: word[2] for word in words if len(word) > 2}
    assert {name: int(defined[name]) for name in WITHHELD} == WITHHELD
