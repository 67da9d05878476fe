"""Writes to sysfs while an unbind or a removal waits for the files of a device: the real kernel and luoemu alike."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from luod.testing import EmulatedMachine, Machine
from luod.testing.interpreter import Interpreter
from tests.devices import FIRST, give_to_vfio
from tests.kernel.booting import booted
from tests.kernel.test_random_devices import NVME, address_of

PROGRAM = Path(__file__).parents[1] / "programs" / "waiting_writes.py"


def ask(machine: Machine, python: Interpreter, address: str, group: str) -> dict[str, Any]:
    answers: dict[str, Any] = json.loads(machine.run([python.executable, str(PROGRAM), address, group]).text)
    return answers


def test_requests_that_wait_for_a_device(tmp_path_factory: pytest.TempPathFactory, machine_python: Interpreter) -> None:
    with booted(tmp_path_factory, arguments=NVME.qemu) as real:
        address = address_of(real, NVME.identity)
        give_to_vfio(real, address)
        group = real.run(["readlink", f"/sys/bus/pci/devices/{address}/iommu_group"]).text.strip().rpartition("/")[2]
        expected = ask(real, machine_python, address, group)
    with EmulatedMachine(arguments=("--vfio", f"{FIRST},msix=4,group={group}")) as emulated:
        give_to_vfio(emulated, FIRST)
        found = ask(emulated, machine_python, FIRST, group)
    assert len(expected) == 25
    assert found == expected
