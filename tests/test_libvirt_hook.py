"""The example's hook for libvirt: a domain does not start during an update, and starts at every other time."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from luod.testing import Machine
from luod.testing.machine import Result
from tests.daemon.host import Luod
from tests.daemon.participant import Participant, begin

HOOK = Path(__file__).parents[1] / "examples/libvirt-hook"
START = ("prepare", "begin", "-")


def run(luod: Luod, *operation: str) -> Result:
    """Runs the hook as libvirtd does, with the domain's XML on stdin."""
    python = luod.python()
    environment = {**python.environment, "LUOCTL": shlex.join(python.module("luod.ctl.main"))}
    command = f"echo '<domain/>' | {shlex.join([str(HOOK), 'guest', *operation])}"
    return luod.machine.run(["sh", "-c", command], env=environment, check=False)


def test_a_domain_does_not_start_during_an_update_and_starts_after_it(luod: Luod) -> None:
    participant = Participant(luod, "vm")
    assert run(luod, *START).returncode == 0
    operator = begin(luod)
    participant.expect("preparing")
    refused = run(luod, *START)
    assert (refused.returncode, refused.stderr.decode()) == (
        1,
        "luod is preparing: domain guest does not start during an update of the kernel; try again after it\n",
    )
    operator.abort()
    participant.expect("cancelled")
    assert run(luod, *START).returncode == 0


@pytest.mark.parametrize(
    "operation", [("stopped", "end"), ("release", "end"), ("reconnect", "begin"), ("start", "begin")]
)
def test_no_other_operation_is_refused(luod: Luod, operation: tuple[str, str]) -> None:
    participant = Participant(luod, "vm")
    begin(luod)
    participant.expect("preparing")
    assert run(luod, *operation, "-").returncode == 0


def test_domains_start_where_luod_does_not_run(machine: Machine, tmp_path: Path) -> None:
    assert run(Luod(machine, tmp_path / "state"), *START).returncode == 0
