"""reboot(2) for a kexec behind an unbind that waits for a file: the real kernel and luoemu answer alike."""

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
from tests.library import ROOT

PROGRAM = "tests.programs.waiting_reboot"
ANOTHER = (
    *("-device", "pcie-root-port,id=below2,chassis=2,slot=2,x-speed=2_5"),
    *("-device", "nvme,serial=luod2,msix_qsize=4,bus=below2"),
)


def answers(machine: Machine, python: Interpreter, addresses: tuple[str, str]) -> dict[str, Any]:
    """Returns what the program was answered in the first boot, which it carries to the second."""
    env = {"PYTHONPATH": os.pathsep.join([python.environment["PYTHONPATH"], str(ROOT)])}
    for address in addresses:
        give_to_vfio(machine, address)
    with machine.expect_jump(timeout=60):
        machine.spawn(python.module(PROGRAM, *addresses, machine.kernel, machine.initrd or ""), env=env).wait()
    found: dict[str, Any] = json.loads(machine.run(python.module(PROGRAM), env=env).text)
    return found


def test_a_kexec_behind_an_unbind(tmp_path_factory: pytest.TempPathFactory, machine_python: Interpreter) -> None:
    with booted(tmp_path_factory, arguments=(*NVME.qemu, *ANOTHER)) as real:
        first, second = addresses_of(real, NVME.identity)
        expected = answers(real, machine_python, (first, second))
    with EmulatedMachine(arguments=("--vfio", f"{FIRST},msix=4", "--vfio", f"{SECOND},msix=4")) as emulated:
        found = answers(emulated, machine_python, (FIRST, SECOND))
    assert len(expected) == 19
    assert found == expected
