"""The kernel's own selftests of VFIO, compiled here from the sources of that kernel: the emulated machine passes them.

`kernel/build` keeps tools/testing/selftests/vfio, and what it includes, beside its source package. A real kernel has no
device for them here; those of devices that have a driver in the selftests have none on the emulated machine.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from luod.errors import MachineUnavailable
from luod.testing import Machine
from luod.testing.kernel import qemu
from luod.testing.plugin import booting_machines
from luod.testing.tools import cannot_run, require_tool
from tests import devices

VIRTUAL = "0000:01:00.1"


@pytest.fixture(scope="module")
def built() -> Path:
    """Returns the folder with the kernel and its headers."""
    try:
        return Path(qemu.kernel_image()).parent
    except MachineUnavailable as error:
        cannot_run(f"{error} ({error.hint})")


@pytest.fixture(scope="module")
def tree(built: Path) -> Path:
    """Returns the sources."""
    sources = sorted(built.parent.glob("source-*/vfio"))
    if not sources:
        cannot_run(f"there are no sources at {built.parent}/source-*/vfio: make kernel unpacks them")
    return sources[-1]


@pytest.fixture(scope="module")
def selftests(built: Path, tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a folder with the programs, statically linked."""
    gcc = require_tool("gcc", package="gcc")
    if not Path("/usr/include/uuid/uuid.h").exists():
        cannot_run("needs uuid/uuid.h, of the Debian package uuid-dev")
    selftests = tree / "tools/testing/selftests"
    folder = tmp_path_factory.mktemp("selftests")
    options: list[str | Path] = ["-O1", "-pthread", "-D_GNU_SOURCE=", "-isystem", built / "usr/include"]
    for include in (selftests / "vfio/lib/include", tree / "tools/include", tree / "tools/arch/x86/include", selftests):
        options += ["-I", include]
    library = sorted((selftests / "vfio/lib").rglob("*.c"))
    subprocess.run([gcc, *options, "-c", *library], cwd=folder, check=True, timeout=100)
    objects = sorted(folder.glob("*.o"))
    for program in sorted((selftests / "vfio").glob("vfio_*_test.c")):
        command = [gcc, *options, "-static", "-o", folder / program.stem, program, *objects, "-luuid"]
        subprocess.run(command, check=True, timeout=60)
    return folder


@pytest.fixture(scope="module")
def machine(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """Yields a machine with a device that can have a virtual function, set up by the selftests' own script."""
    with booting_machines("emulated", scratch=tmp_path_factory.getbasetemp()) as boot_machine:
        virtual = f"{VIRTUAL},vf-of={devices.FIRST}"
        machine = devices.boot(boot_machine, devices=(f"{devices.FIRST},msi=4,msix=8,bars=16K+1M", virtual))
        script = tree / "tools/testing/selftests/vfio/scripts/setup.sh"
        machine.run(["bash", str(script), devices.FIRST], env={"TMPDIR": "/run"})
        yield machine


@pytest.mark.parametrize(
    ("program", "skipped"),
    [
        ("vfio_iommufd_setup_test", 0),
        ("vfio_pci_device_test", 0),
        ("vfio_pci_device_init_perf_test", 0),
        ("vfio_dma_mapping_mmio_test", 0),
        # Huge pages, which this host may not have.
        ("vfio_dma_mapping_test", 10),
        ("vfio_pci_sriov_uapi_test", 0),
    ],
)
def test_passes(machine: Machine, selftests: Path, program: str, skipped: int) -> None:
    done = machine.run([str(selftests / program), devices.FIRST], check=False)
    report = done.text.splitlines()[-1]
    assert "fail:0" in report, done.text
    assert int(report.partition("skip:")[2].split()[0]) <= skipped
    assert done.returncode == 0
