"""Many random programs about a device: the real kernel and the emulated machine answer every question alike.

More than 20,000 questions about two devices of QEMU behind its VT-d, bound to vfio-pci. luoemu is given devices that
look the same to vfio-pci: an nvme (PCI Express, MSI-X, resets of the function and of its bus), and QEMU's `edu`
(conventional, MSI, no reset), which copies by DMA. Left out is what belongs to the hardware alone: the contents of
BARs, the rest of configuration space, MSI by DMA. The programs have no kexec: a mainline kernel preserves no device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import pytest

from luod.testing import EmulatedMachine, Machine
from luod.testing.interpreter import Interpreter
from tests.conformance.random_programs.contest import Contest
from tests.conformance.random_programs.devices import generate
from tests.conformance.random_programs.play import Stage
from tests.conformance.random_programs.report import record
from tests.devices import FIRST, give_to_vfio
from tests.kernel.booting import booted

QUESTIONS = 1_000
SECONDS = 60
"""For the search for the smallest program with a difference."""

# 48 bits of addresses and coherent DMA, as luoemu's IOMMU has.
_IOMMU = ("-device", "intel-iommu,intremap=on,caching-mode=on,snoop-control=on,aw-bits=48")
# At a higher speed QEMU's port reports no link after a reset of its bus.
_PORT = ("-device", "pcie-root-port,id=below,chassis=1,slot=1,x-speed=2_5")


@dataclass(frozen=True)
class Kind:
    """A device of QEMU, found by its `identity`, and the description of luoemu's."""

    qemu: Sequence[str]
    identity: tuple[bytes, bytes]
    """Vendor and device, as in sysfs."""
    emulated: str
    express: bool


NVME = Kind(
    (*_IOMMU, *_PORT, "-device", "nvme,serial=luod,msix_qsize=4,bus=below"),
    (b"0x1b36\n", b"0x0010\n"),
    f"{FIRST},msix=4",
    express=True,
)
EDU = Kind(
    (*_IOMMU, "-device", "edu,dma_mask=0xffffffffffffffff"),
    (b"0x1234\n", b"0x11e8\n"),
    "0000:00:1f.0,msix=0,msi=1,bars=1M,reset=none",
    express=False,
)


def address_of(machine: Machine, identity: tuple[bytes, bytes]) -> str:
    """Returns the PCI address of a device."""
    for name in addresses_of(machine, identity):
        return name
    pytest.fail(f"the machine has no device {identity}")


def addresses_of(machine: Machine, identity: tuple[bytes, bytes]) -> list[str]:
    """Returns the PCI addresses of all devices with this vendor and device, in their order."""
    folder = "/sys/bus/pci/devices"
    found = []
    for name in sorted(machine.run(["ls", folder]).text.split()):
        if (machine.read(f"{folder}/{name}/vendor"), machine.read(f"{folder}/{name}/device")) == identity:
            found.append(name)
    return found


def contests(kind: Kind, python: Interpreter, factory: pytest.TempPathFactory) -> Iterator[Contest]:
    """Yields both machines, with the device bound to vfio-pci and in a group of the same number."""
    with booted(factory, arguments=kind.qemu) as real:
        address = address_of(real, kind.identity)
        give_to_vfio(real, address)
        group = real.run(["readlink", f"/sys/bus/pci/devices/{address}/iommu_group"]).text.strip().rpartition("/")[2]
        with EmulatedMachine(arguments=("--vfio", f"{kind.emulated},group={group}")) as emulated:
            give_to_vfio(emulated, kind.emulated.partition(",")[0])
            yield Contest("kernel", Stage(real, python), Stage(emulated, python))


@pytest.fixture(scope="module")
def nvme(machine_python: Interpreter, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Contest]:
    yield from contests(NVME, machine_python, tmp_path_factory)


@pytest.fixture(scope="module")
def edu(machine_python: Interpreter, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Contest]:
    yield from contests(EDU, machine_python, tmp_path_factory)


def answers_alike(contest: Contest, kind: Kind, seed: int, record_property: Callable[[str, object], None]) -> None:
    """Asks both machines the questions of this seed. Raises AssertionError with the first difference."""
    verdict = contest.hold(generate(seed, questions=QUESTIONS, express=kind.express), seconds=SECONDS)
    record(record_property, verdict.tally)
    assert not verdict.text, verdict.text


@pytest.mark.parametrize("seed", range(1, 12))
def test_a_device_of_pci_express_answers_alike(
    nvme: Contest, seed: int, record_property: Callable[[str, object], None]
) -> None:
    answers_alike(nvme, NVME, seed, record_property)


@pytest.mark.parametrize("seed", range(1, 12))
def test_a_device_that_copies_by_dma_answers_alike(
    edu: Contest, seed: int, record_property: Callable[[str, object], None]
) -> None:
    answers_alike(edu, EDU, seed, record_property)
