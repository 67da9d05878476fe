"""The demo's story as a test: what `make demo` prints must be true."""

from __future__ import annotations

from pathlib import Path

import pytest

from demo.scenario import Guest, can_become, run
from luod.testing import Host, Machine
from luod.testing.plugin import BootMachine
from tests import devices

pytestmark = pytest.mark.luod_processors(2)  # as hosts have


def guests(machine: Machine) -> tuple[Guest, ...]:
    other = 1000 if can_become(machine, 1000) else None
    return Guest("vm-alice", None), Guest("vm-bob", other), Guest("vm-carol", None, devices.FIRST)


def test_two_vmms_keep_their_memory_where_no_device_can_be_preserved(machine: Machine, tmp_path: Path) -> None:
    lines: list[str] = []

    outcome = run(Host(machine, state_directory=tmp_path), guests(machine), mebibytes=8, updates=1, tell=lines.append)

    assert outcome.bytes_carried == 2 * 8 << 20
    assert sum("every byte the same" in line for line in lines) == 2
    assert any("vm-carol is left out: this machine has no device" in line for line in lines)


def test_a_third_keeps_its_device(boot_machine: BootMachine, machine_kind: str, tmp_path: Path) -> None:
    if machine_kind == "kernel":
        pytest.skip("no released kernel preserves devices")
    machine = devices.boot(boot_machine)
    lines: list[str] = []

    outcome = run(Host(machine, state_directory=tmp_path), guests(machine), mebibytes=8, updates=1, tell=lines.append)

    assert outcome.bytes_carried == 3 * 8 << 20
    assert sum(f"every byte the same, and {devices.FIRST}, reset: again " in line for line in lines) == 1
