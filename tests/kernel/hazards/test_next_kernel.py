"""H20: a next kernel that reads other formats, or has no handler for what is carried.

Such kernels are this one with the digit of one format's name changed, in the packed image: `luod.image` proves that
nothing else differs. They behave as a kernel of another version when it compares the names.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from luod import image
from luod.errors import MachineEnded
from luod.testing import Machine
from luod.testing.interpreter import Interpreter
from luod.testing.kernel import qemu
from tests.daemon.host import Luod
from tests.kernel.booting import booted
from tests.library import Vmm, jump, start_vmm

FORMATS = ("kho", "luo", "memfd")


@dataclass(frozen=True)
class Kernel:
    """An image and the formats it reads, as `luod.image` finds them: {"luo": "luo-v5", …}."""

    path: Path
    payload: bytes
    formats: dict[str, str]


def kernel_at(path: Path) -> Kernel:
    data = path.read_bytes()
    payload = image.unpack(data, image.describe(data))
    return Kernel(path, payload, {name.partition("-")[0]: name for name in image.contents(payload).formats})


def with_other(same: Kernel, what: str, path: Path) -> Kernel:
    """Writes the image with another version of one format to `path`."""
    name = same.formats[what].encode()
    other = name[:-1] + (b"8" if name.endswith(b"9") else b"9")
    packed = same.path.read_bytes()
    # It is in the packed data literally, since nothing before it in the kernel is similar.
    assert packed.count(name) == 1
    path.write_bytes(packed.replace(name, other))
    changed = kernel_at(path)
    assert changed.payload == same.payload.replace(name + b"\0", other + b"\0")
    return changed


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Kernel]:
    """Returns the images: "same", and one with another version of each of FORMATS."""
    same = kernel_at(Path(qemu.kernel_image()))
    folder = tmp_path_factory.mktemp("kernels")
    return {"same": same} | {what: with_other(same, what, folder / f"other-{what}") for what in FORMATS}


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory, kernels: dict[str, Kernel]) -> Iterator[Machine]:
    """Yields the module's machine.

    The tests lead it from one kernel into the next, in their order; "kho" is its first.
    """
    with booted(tmp_path_factory, kernel=kernels["kho"].path) as booted_machine:
        yield booted_machine


def jump_into(vmm: Vmm, kernel: Kernel) -> None:
    """Jumps with a session "vm" that holds a memfd."""
    machine = vmm.program.machine
    vmm.create(b"vm")
    vmm.preserved_memfd()
    load(vmm, kernel)
    jump(machine, vmm)


def load(vmm: Vmm, kernel: Kernel) -> None:
    machine = vmm.program.machine
    command_line = machine.read("/proc/cmdline").decode().strip()
    vmm.call("load", kernel=str(kernel.path), initrd=machine.initrd, command_line=command_line)


def log_of(machine: Machine) -> str:
    return machine.run(["dmesg"]).text


def test_h20_the_image_says_which_formats_it_reads(kernels: dict[str, Kernel]) -> None:
    same = kernels["same"].formats
    assert set(same) >= set(FORMATS)
    for what in FORMATS:
        other = kernels[what].formats
        assert {each for each in same if other[each] != same[each]} == {what}


def test_h20_luod_does_not_jump_into_such_kernels(
    kernels: dict[str, Kernel], tmp_path_factory: pytest.TempPathFactory
) -> None:
    findings = {"kho": "kho-format", "luo": "luo-format", "memfd": "handler-format"}
    with booted(tmp_path_factory) as machine:
        luod = Luod(machine, tmp_path_factory.mktemp("state"))
        luod.start()
        for what in FORMATS:
            luod.load(str(kernels[what].path))
            refused = luod.luoctl("update", check=False)
            assert (refused.returncode, findings[what] in refused.stderr.decode()) == (4, True)
        luod.load(str(kernels["same"].path))
        assert luod.luoctl("update", "--dry-run").returncode == 0


def test_h20_other_kho_loses_all_with_a_warning(
    machine: Machine, machine_python: Interpreter, kernels: dict[str, Kernel]
) -> None:
    jump_into(start_vmm(machine, machine_python), kernels["same"])
    vmm = start_vmm(machine, machine_python)
    assert vmm.can_retrieve(b"vm") == "ENOENT"
    assert vmm.refused("retrieve_session", name="vm", slot="s").kind == "NoSuchSession"
    assert f"is incompatible with '{kernels['same'].formats['kho']}'" in log_of(machine)


def test_h20_a_missing_handler_breaks_the_device_for_that_kernels_life(
    machine: Machine, machine_python: Interpreter, kernels: dict[str, Kernel]
) -> None:
    vmm = start_vmm(machine, machine_python)
    vmm.create(b"empty", slot="empty")
    jump_into(vmm, kernels["memfd"])
    vmm = start_vmm(machine, machine_python)
    for _ in range(2):
        assert vmm.says("open", path="/dev/liveupdate", flags=0, slot="device") == "EIO"
        error = vmm.refused("retrieve_session", name="empty", slot="s")
        assert (error.kind, error.errno) == ("LiveUpdateBroken", "EIO")
    assert "luo: No registered handler for compatible" in log_of(machine)


def test_h20_other_luo_panics(machine: Machine, machine_python: Interpreter, kernels: dict[str, Kernel]) -> None:
    vmm = start_vmm(machine, machine_python)
    load(vmm, kernels["luo"])
    with pytest.raises(MachineEnded, match="Kernel panic"):
        jump(machine, vmm)
