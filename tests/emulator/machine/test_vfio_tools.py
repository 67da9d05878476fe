"""Debian's tools for VFIO devices run unmodified in a machine: driverctl, dpdk-devbind, and a DPDK program.

LUOD_DPDK names the folder in which `scripts/fetch-dpdk` unpacks them.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from luod.testing.tools import require_tool

Run = Callable[..., "subprocess.CompletedProcess[str]"]

ADDRESS = "0000:02:00.0"
DEVICE = f"{ADDRESS},vendor=0x8086,device=0x10d3,class=0x020000,bars=128K,msix=5,driver=e1000e"
"""It claims to be a network adapter that DPDK drives. Its registers are luoemu's."""


@pytest.fixture(scope="module")
def unpacked() -> Path:
    """Returns the folder with the programs."""
    if "LUOD_DPDK" not in os.environ:
        pytest.skip("LUOD_DPDK=$(scripts/fetch-dpdk) names the folder with DPDK and driverctl")
    return Path(os.environ["LUOD_DPDK"])


def shell(run_machine: Run, script: str) -> subprocess.CompletedProcess[str]:
    return run_machine([require_tool("bash", package="bash"), "-ec", script], "--vfio", DEVICE)


def test_driverctl_gives_a_device_to_vfio_and_back(run_machine: Run, unpacked: Path) -> None:
    tool = f"bash {unpacked}/usr/sbin/driverctl --nosave"
    script = f"""
        {tool} set-override {ADDRESS} vfio-pci
        {tool} list-overrides
        ls /dev/vfio/devices
        {tool} unset-override {ADDRESS}
        {tool} list-devices
    """
    done = shell(run_machine, script)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [f"{ADDRESS} vfio-pci", "vfio0", f"{ADDRESS} e1000e"]


def test_dpdk_devbind_binds_a_device(run_machine: Run, unpacked: Path) -> None:
    tool = f"python3 {unpacked}/usr/bin/dpdk-devbind.py"
    path = f"{unpacked}/usr/bin:$PATH LD_LIBRARY_PATH={unpacked}/usr/lib/x86_64-linux-gnu"
    script = f"""
        export PATH={path}
        {tool} --bind=vfio-pci {ADDRESS}
        {tool} --status-dev net
        {tool} --unbind {ADDRESS}
        {tool} --status-dev net
    """
    done = shell(run_machine, script)
    assert done.returncode == 0, done.stderr
    states = [line.partition("' ")[2] for line in done.stdout.splitlines() if line.startswith(ADDRESS)]
    assert [state.split()[0] for state in states if "drv=vfio-pci" in state] == ["drv=vfio-pci"]
    assert [state.split()[-1] for state in states if "drv=vfio-pci" not in state] == ["unused=vfio-pci"]


@pytest.mark.usefixtures("mapping")
def test_a_dpdk_program_uses_a_device(run_machine: Run, unpacked: Path) -> None:
    """It maps the BAR and sets up DMA. Then it finds that the registers are not of an e1000e, and does without."""
    library = unpacked / "usr/lib/x86_64-linux-gnu"
    (drivers,) = (library / "dpdk").glob("pmds-*")
    loader = f"{unpacked}/lib64/ld-linux-x86-64.so.2 --library-path {library}:{unpacked}/lib/x86_64-linux-gnu"
    options = f"--no-huge -m 64 --no-telemetry -d {drivers} -a {ADDRESS} --vdev=net_null0 --log-level=lib.eal:debug"
    script = f"""
        bash {unpacked}/usr/sbin/driverctl --nosave set-override {ADDRESS} vfio-pci
        echo quit | {loader} {unpacked}/usr/bin/dpdk-testpmd {options} -- -i --total-num-mbufs=2048 2>&1
        bash {unpacked}/usr/sbin/driverctl --nosave unset-override {ADDRESS}
    """
    done = shell(run_machine, script)
    assert done.returncode == 0, done.stderr
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    wanted = ["VFIO support initialized", "probe driver: 8086:10d3 net_e1000_em", "Using IOMMU type 1 (Type 1)"]
    assert [line for line in wanted if f"EAL: {line}" in lines] == wanted
    assert any(line.startswith("EAL: PCI memory mapped at") for line in lines)
    assert lines[-1] == "Bye..."
