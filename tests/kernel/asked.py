"""Runs one program about a VFIO device on the real kernel and on luoemu. Both devices are an nvme behind a port."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from luod.testing import EmulatedMachine, Machine
from luod.testing.interpreter import Interpreter
from tests.devices import FIRST, give_to_vfio
from tests.kernel.booting import booted
from tests.kernel.test_random_devices import NVME, address_of

ROOT = Path(__file__).parents[2]
Answers = dict[str, Any]


def ask_both(factory: pytest.TempPathFactory, python: Interpreter, program: str) -> tuple[Answers, Answers]:
    """Returns what `program`, a module of tests/programs/, prints on the real kernel, and on luoemu.

    Its arguments are the device's PCI address and the number of its iommu group.
    """
    with booted(factory, arguments=NVME.qemu) as real:
        address = address_of(real, NVME.identity)
        link = real.run(["readlink", f"/sys/bus/pci/devices/{address}/iommu_group"]).text
        group = link.strip().rpartition("/")[2]
        expected = _ask(real, python, program, address, group)
    with EmulatedMachine(arguments=("--vfio", f"{FIRST},msix=4,group={group}")) as emulated:
        return expected, _ask(emulated, python, program, FIRST, group)


def _ask(machine: Machine, python: Interpreter, program: str, address: str, group: str) -> Answers:
    give_to_vfio(machine, address)
    env = {"PYTHONPATH": os.pathsep.join([python.environment["PYTHONPATH"], str(ROOT)])}
    printed = machine.run(python.module(f"tests.programs.{program}", address, group), env=env).text
    answers: Answers = json.loads(printed)
    return answers
