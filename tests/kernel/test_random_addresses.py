"""Many random programs about IO address spaces: the real kernel and the emulated machine answer every question alike.

Five programs of 2,000 questions about iommufd and type1 containers. Neither machine has a device: what one adds is in
test_random_devices.py, whose programs ask these questions, too.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from luod.testing.interpreter import Interpreter
from tests.conformance.random_programs.addresses import generate
from tests.conformance.random_programs.contest import Contest, contest
from tests.devices import FIRST

QUESTIONS = 2_000
SEEDS = range(1, 6)


@pytest.fixture(scope="module")
def both(machine_python: Interpreter, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Contest]:
    scratch = tmp_path_factory.getbasetemp()
    # Without a device luoemu has no /dev/iommu. The programs do not use it.
    with contest("kernel", machine_python, scratch=scratch, arguments=("--vfio", FIRST)) as machines:
        yield machines


@pytest.mark.parametrize("seed", SEEDS)
def test_the_real_kernel_and_the_emulated_machine_answer_alike(both: Contest, seed: int) -> None:
    verdict = both.hold(generate(seed, questions=QUESTIONS), seconds=60)
    assert not verdict.text, verdict.text
