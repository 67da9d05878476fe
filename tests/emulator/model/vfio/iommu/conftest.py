"""A program with an iommufd on a machine with one device, by the series v2."""

from __future__ import annotations

import pytest

from tests.emulator.model.vfio.machine import A, Vmm
from tests.emulator.model.world import number


@pytest.fixture
def rules() -> str:
    return "v2"


@pytest.fixture
def iommu(vmm: Vmm) -> int:
    vmm.ram(16)
    return number(vmm.open("/dev/iommu"))


@pytest.fixture
def ioas(vmm: Vmm, iommu: int) -> int:
    return vmm.ioas(iommu)


@pytest.fixture
def table(vmm: Vmm, iommu: int, ioas: int) -> int:
    """Returns a page table of that IOAS."""
    device = number(vmm.open_cdev(A))
    return number(vmm.hwpt(iommu, number(vmm.bind(device, iommu)), ioas))
