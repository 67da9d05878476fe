"""A VFIO device on a kernel whose LUO knows memfds only: what it refuses, and that memory under DMA is carried.

QEMU's `edu` behind an emulated VT-d, driven by vfio-pci. The device itself is bound again in each kernel.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from luod.testing import Machine
from luod.testing.interpreter import Interpreter
from tests.kernel.booting import booted
from tests.library import Vmm, jump, load, start_vmm

ARGUMENTS = ("-device", "intel-iommu,intremap=on,caching-mode=on", "-device", "edu")
VENDOR, DEVICE = b"0x1234\n", b"0x11e8\n"
PAGE = 4096
COPIED = 2048
"""Bytes that the device copies at once."""
RAM = 16 * PAGE
LOW, HIGH = 0x100000, 0x800000
"""IOVAs, below the 256 MiB that the device can address."""


def use_vfio(machine: Machine) -> None:
    """Gives the device to vfio-pci, as /dev/vfio/devices/vfio0."""
    for name in machine.run(["ls", "/sys/bus/pci/devices"]).text.split():
        folder = f"/sys/bus/pci/devices/{name}"
        if (machine.read(f"{folder}/vendor"), machine.read(f"{folder}/device")) == (VENDOR, DEVICE):
            assert machine.run(["test", "-e", f"{folder}/driver"], check=False).returncode == 1
            machine.write(f"{folder}/driver_override", b"vfio-pci")
            machine.write("/sys/bus/pci/drivers_probe", name.encode())
            return
    pytest.fail("the machine has no edu device")


def start(machine: Machine, python: Interpreter) -> Vmm:
    """Returns a VMM with the device, not bound, in slot "device", and an iommufd."""
    use_vfio(machine)
    vmm = start_vmm(machine, python, "edu")
    vmm.ask("open", path="/dev/vfio/devices/vfio0", flags=os.O_RDWR, slot="device")
    vmm.ask("open", path="/dev/iommu", flags=os.O_RDWR, slot="iommufd")
    return vmm


@pytest.fixture
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    with booted(tmp_path_factory, arguments=ARGUMENTS) as booted_machine:
        yield booted_machine


def refuses(vmm: Vmm, file: str) -> None:
    error = vmm.refused("preserve", session="s", file=file, token=7, name="device")
    assert (error.kind, error.errno) == ("FileNotPreservable", "ENOENT")


def page(vmm: Vmm, number: int) -> str:
    """Returns as much of a page as the device copies."""
    data: str = vmm.ask("pread", fd="ram", length=COPIED, offset=number * PAGE)
    return data


def test_devices_are_refused_and_memory_under_dma_is_carried(machine: Machine, machine_python: Interpreter) -> None:
    vmm = start(machine, machine_python)
    vmm.call("create", name="vm", slot="s")
    # Neither before nor after it is bound.
    refuses(vmm, "device")
    refuses(vmm, "iommufd")
    assert vmm.says("device_info", device="device") == "EINVAL"
    space = vmm.ask("bind", device="device", iommufd="iommufd")
    assert vmm.ask("device_info", device="device")[1:] == [9, 5]
    vmm.memfd("ram", size=RAM, seed=1)
    vmm.ask("map", name="ram", fd="ram", length=RAM)
    vmm.ask("map_dma", iommufd="iommufd", space=space, name="ram", iova=LOW)
    refuses(vmm, "device")
    refuses(vmm, "iommufd")
    assert vmm.call("contents", session="s") == []

    # By DMA before PRESERVE, after it, and through an IOVA that was mapped afterwards.
    pages = [page(vmm, number) for number in range(4)]
    assert len(set(pages)) == 4
    vmm.ask("copy_by_dma", device="device", source=LOW, target=LOW + PAGE)
    vmm.call("preserve", session="s", file="ram", token=1, name="ram")
    vmm.ask("copy_by_dma", device="device", source=LOW, target=LOW + 2 * PAGE)
    vmm.ask("map_dma", iommufd="iommufd", space=space, name="ram", iova=HIGH)
    vmm.ask("copy_by_dma", device="device", source=HIGH, target=HIGH + 3 * PAGE)
    assert [page(vmm, number) for number in range(4)] == [pages[0]] * 4
    digest = vmm.ask("digest", fd="ram")

    # With the device open, bound and mastering the bus.
    load(machine, vmm)
    jump(machine, vmm)
    vmm = start(machine, machine_python)
    assert vmm.says("device_info", device="device") == "EINVAL"
    vmm.call("retrieve_session", name="vm", slot="s")
    assert [entry["name"] for entry in vmm.call("contents", session="s")] == ["ram"]
    vmm.call("retrieve", session="s", file="ram", slot="ram")
    assert vmm.ask("digest", fd="ram") == digest
    # And the device works on it again.
    vmm.ask("pwrite", fd="ram", data="x" * PAGE, offset=0)
    space = vmm.ask("bind", device="device", iommufd="iommufd")
    vmm.ask("map", name="ram", fd="ram", length=RAM)
    vmm.ask("map_dma", iommufd="iommufd", space=space, name="ram", iova=LOW)
    vmm.ask("copy_by_dma", device="device", source=LOW, target=LOW + 5 * PAGE)
    assert page(vmm, 5) == "x" * COPIED
    vmm.call("finish", session="s")
