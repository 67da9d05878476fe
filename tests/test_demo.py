"""The demo's story as a test: what `make demo` prints must be true."""

from __future__ import annotations

from pathlib import Path

from demo.scenario import Guest, can_become, run
from luod.testing import Host, Machine


def test_two_vmms_keep_their_memory_over_a_live_update(machine: Machine, tmp_path: Path) -> None:
    lines: list[str] = []
    guests = (Guest("vm-alice", None), Guest("vm-bob", 1000 if can_become(machine, 1000) else None))

    outcome = run(Host(machine, state_directory=tmp_path), guests, mebibytes=8, updates=1, tell=lines.append)

    assert outcome.bytes_carried == 2 * 8 << 20
    assert any("every byte the same" in line for line in lines)
