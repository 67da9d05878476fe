"""Random programs about IO address spaces and devices, on two emulated machines: the questions mean the same on both.

The generators are for questions to a real kernel, too (tests/kernel/).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent

import pytest

from luod.testing import EmulatedMachine
from luod.testing.interpreter import Interpreter
from luod.testing.tools import cannot_run
from luod.uapi import iommufd, vfio
from tests.conformance.conftest import ROOT
from tests.conformance.random_programs import addresses, devices, hardware
from tests.conformance.random_programs.compare import allowed
from tests.conformance.random_programs.contest import Contest
from tests.conformance.random_programs.play import Stage
from tests.conformance.random_programs.program import Answer, Program, Question
from tests.devices import FIRST, give_to_vfio

ARGUMENTS = ("--vfio", FIRST)
DETACH_FORGOTTEN = """
    from luod.emulator.model.vfio.iommu.context import BoundDevice

    BoundDevice.detach = lambda self: None
"""


def of_a_device(seed: int, *, questions: int) -> Program:
    return devices.generate(seed, questions=questions, express=True)


@contextlib.contextmanager
def two_machines(python: Interpreter, *, planted: Path | None = None) -> Iterator[Contest]:
    """Yields machines with a device that is bound to vfio-pci. The second has the sitecustomize.py of `planted`."""
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        cannot_run("no /dev/fuse that this uid may use, and devices need it: modprobe fuse, as root")
    env = {} if planted is None else {"PYTHONPATH": f"{planted}{os.pathsep}{python.environment['PYTHONPATH']}"}
    with EmulatedMachine(arguments=ARGUMENTS) as one, EmulatedMachine(arguments=ARGUMENTS, env=env) as other:
        for machine in (one, other):
            give_to_vfio(machine)
        yield Contest("emulated", Stage(one, python), Stage(other, python))


@pytest.mark.parametrize("generate", [addresses.generate, of_a_device])
def test_a_seed_is_a_program(generate: Callable[..., Program]) -> None:
    program = generate(5, questions=200)
    assert program == generate(5, questions=200)
    assert program != generate(6, questions=200)
    assert len(program) >= 200


def test_two_machines_answer_alike(machine_python: Interpreter) -> None:
    with two_machines(machine_python) as both:
        verdict = both.hold(devices.generate(2, questions=500, express=False), seconds=20)
        answers = both.one.play(devices.generate(3, questions=500, express=False)).boots[0]
    assert not verdict.text, verdict.text
    # Most programs get far: calls of every kind succeed, and few questions make no sense.
    assert sum("wrong" in answer for answer in answers) < 100
    assert sum(isinstance(said := answer.get("ok"), dict) and said.get("returned") == 0 for answer in answers) > 100


def test_a_planted_mistake_is_found(machine_python: Interpreter, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(dedent(DETACH_FORGOTTEN))
    with two_machines(machine_python, planted=tmp_path) as both:
        found = (both.hold(of_a_device(seed, questions=200), seconds=2) for seed in range(1, 6))
        verdict = next(verdict for verdict in found if verdict.shrunk is not None)
    assert verdict.shrunk is not None
    assert str(vfio.VFIO_DEVICE_DETACH_IOMMUFD_PT) in verdict.text, "the detach is among the questions that are left"


# -- what may differ ---------------------------------------------------------------------------------------------


def structure(command: int, *values: int) -> Question:
    return {"do": "structure", "fd": "x", "command": command, "layout": "=III", "values": list(values)}


def returned(*changed: list[int]) -> Answer:
    return {"ok": {"returned": 0, "changed": list(changed)}}


REFUSED: Answer = {"ok": {"errno": "ENOTTY", "changed": []}}
HW_INFO = structure(iommufd.IOMMU_GET_HW_INFO, 0, 1)
IOMMU_INFO = structure(vfio.VFIO_IOMMU_GET_INFO, 0)
DIRTY_PAGES = {**structure(vfio.VFIO_IOMMU_DIRTY_PAGES, 0), "fd": "container1"}
UNMASK = structure(vfio.VFIO_DEVICE_SET_IRQS, 0x14, 0, 0, 1)
NO_BYTES: Question = {"do": "region_read", "length": 0}
NOTHING: Question = {"do": "region_write", "data": ""}


def test_every_allowed_difference_stands_in_the_list() -> None:
    page = (ROOT / "docs" / "divergences.md").read_text()
    assert [row for row in hardware.ROWS if f"| `{row}` |" not in page] == []


@pytest.mark.parametrize(
    ("row", "question", "real", "emulated"),
    [
        (hardware.WITHOUT_BYTES, NO_BYTES, {"errno": "EINVAL"}, {"ok": [0, 0]}),
        (hardware.WITHOUT_BYTES, NOTHING, {"errno": "EINVAL"}, {"ok": 0}),
        (hardware.IOMMU, HW_INFO, returned([3, 24], [5, 1]), returned([3, 0])),
        (hardware.MIGRATION, IOMMU_INFO, returned([0, 120], [1, 3]), returned([0, 88], [1, 3])),
        (hardware.MIGRATION, DIRTY_PAGES, {"ok": {"errno": "EACCES", "changed": []}}, REFUSED),
        (hardware.DEVICE, UNMASK, returned(), REFUSED),
    ],
)
def test_a_difference_that_a_row_has(row: str, question: Question, real: Answer, emulated: Answer) -> None:
    assert allowed(question, real, emulated) == row


@pytest.mark.parametrize(
    ("question", "real", "emulated"),
    [
        pytest.param({**NO_BYTES, "length": 1}, {"errno": "EINVAL"}, {"ok": [1, 0]}, id="an access with a byte"),
        pytest.param(NO_BYTES, {"ok": [0, 0]}, {"errno": "EINVAL"}, id="an access that is refused"),
        pytest.param(HW_INFO, returned(), REFUSED, id="another errno"),
        pytest.param(IOMMU_INFO, returned([0, 120], [1, 3]), returned([0, 87], [1, 3]), id="another size"),
        pytest.param(IOMMU_INFO, returned([0, 120], [1, 3]), returned([0, 88], [1, 1]), id="other flags"),
        pytest.param({**DIRTY_PAGES, "fd": "vfio1"}, returned(), REFUSED, id="the same number on a device"),
        pytest.param(UNMASK, REFUSED, returned(), id="an unmask that succeeds"),
        pytest.param(structure(vfio.VFIO_DEVICE_SET_IRQS, 0x14, 2, 0, 1), returned(), REFUSED, id="another interrupt"),
    ],
)
def test_other_differences_count(question: Question, real: Answer, emulated: Answer) -> None:
    assert allowed(question, real, emulated) is None
