"""A first boot and a process in it, and the proof that the model closed every file."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.emulator.model.world import Process, World, boot


@pytest.fixture
def world() -> Iterator[World]:
    machine = boot()
    yield machine
    machine.switch_off()


@pytest.fixture
def vmm(world: World) -> Process:
    return Process(world)


@pytest.fixture
def device(vmm: Process) -> int:
    return vmm.open_device()
