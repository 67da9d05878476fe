"""A first boot with two devices, under each table of rules, and the proof that the model released everything."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from luod.emulator.model.vfio.rules import RULES
from tests.emulator.model.vfio.machine import DeviceWorld, Vmm, power_on


@pytest.fixture(params=sorted(RULES))
def rules(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def world(rules: str) -> Iterator[DeviceWorld]:
    machine = power_on(rules=rules)
    yield machine
    machine.switch_off()


@pytest.fixture
def vmm(world: DeviceWorld) -> Vmm:
    """Returns a process, with both devices bound to vfio-pci."""
    process = Vmm(world)
    process.take()
    return process


@pytest.fixture
def liveupdate(vmm: Vmm) -> int:
    """Opens /dev/liveupdate."""
    return vmm.open_device()
