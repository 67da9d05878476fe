"""Removes and rescans of PCI devices that wait for each other: the real kernel and luoemu answer alike."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest

from luod.testing import EmulatedMachine, Machine
from luod.testing.interpreter import Interpreter
from tests.devices import FIRST, SECOND, give_to_vfio
from tests.kernel.booting import booted
from tests.kernel.test_random_devices import NVME, addresses_of
from tests.kernel.test_waiting_reboot import ANOTHER
from tests.library import ROOT


def answers(machine: Machine, python: Interpreter, addresses: tuple[str, str]) -> dict[str, Any]:
    env = {"PYTHONPATH": os.pathsep.join([python.environment["PYTHONPATH"], str(ROOT)])}
    for address in addresses:
        give_to_vfio(machine, address)
    found: dict[str, Any] = json.loads(
        machine.run(python.module("tests.programs.waiting_rescan", *addresses), env=env).text
    )
    return found


def test_removes_and_rescans(tmp_path_factory: pytest.TempPathFactory, machine_python: Interpreter) -> None:
    with booted(tmp_path_factory, arguments=(*NVME.qemu, *ANOTHER)) as real:
        first, second = addresses_of(real, NVME.identity)
        expected = answers(real, machine_python, (first, second))
    with EmulatedMachine(arguments=("--vfio", f"{FIRST},msix=4", "--vfio", f"{SECOND},msix=4")) as emulated:
        found = answers(emulated, machine_python, (FIRST, SECOND))
    assert len(expected) == 8
    assert found == expected
