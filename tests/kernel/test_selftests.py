"""The kernel's own selftests of live update, compiled here from the sources of that kernel: both machines pass them.

`kernel/build` keeps tools/testing/selftests/liveupdate of its source package, and the headers, beside the image.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from luod.testing import Machine
from luod.testing.interpreter import Interpreter
from luod.testing.kernel import qemu
from luod.testing.plugin import KINDS, booting_machines
from luod.testing.tools import require_tool
from tests.library import jump, load, start_vmm

OVER_A_KEXEC = ("luo_kexec_simple", "luo_multi_session", "luo_stress_files", "luo_stress_sessions")


@pytest.fixture(scope="module")
def selftests(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a folder with the programs, statically linked."""
    gcc = require_tool("gcc", package="gcc")
    folder = tmp_path_factory.mktemp("selftests")
    built = Path(qemu.kernel_image()).parent
    sources = built / "tools/testing/selftests/liveupdate"
    for program in ("liveupdate", *OVER_A_KEXEC):
        command: list[str | Path] = [
            gcc,
            "-static",
            "-O2",
            "-Wall",
            "-Wno-unused-function",
            "-isystem",
            built / "usr/include",
        ]
        command += ["-I", sources / "lib/include", sources / f"{program}.c", sources / "lib/lu_utils.c"]
        subprocess.run([*command, "-o", folder / program], check=True, timeout=60)
    return folder


@pytest.fixture(scope="module", params=KINDS)
def after_the_jump(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    selftests: Path,
    machine_python: Interpreter,
) -> Iterator[Machine]:
    """Yields a machine of each kind, in its second boot.

    Each program had its stage 1, and a child held its sessions.
    """
    with booting_machines(request.param, scratch=tmp_path_factory.getbasetemp()) as boot:
        machine = boot()
        for program in OVER_A_KEXEC:
            machine.run([str(selftests / program), "-s", "1"])
        vmm = start_vmm(machine, machine_python)
        load(machine, vmm)
        jump(machine, vmm)
        yield machine


@pytest.mark.parametrize("program", OVER_A_KEXEC)
def test_over_a_kexec(after_the_jump: Machine, selftests: Path, program: str) -> None:
    assert "TEST PASSED" in after_the_jump.run([str(selftests / program), "-s", "2"]).text


def test_the_cases_of_one_boot(after_the_jump: Machine, selftests: Path) -> None:
    report = after_the_jump.run([str(selftests / "liveupdate")]).text
    assert "pass:15 fail:0 xfail:0 xpass:0 skip:0 error:0" in report


def test_the_example_of_ci_runs_them(tmp_path: Path) -> None:
    """In a tree that has of the kernel's source what it needs."""
    built = Path(qemu.kernel_image()).parent
    shutil.copytree(sorted(built.parent.glob("source-*/vfio"))[-1], tmp_path, dirs_exist_ok=True)
    for part in ("tools/testing/selftests", "usr/include"):
        shutil.copytree(built / part, tmp_path / part, dirs_exist_ok=True)
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts/subarch.include").write_text("SUBARCH := x86\n")
    script = Path(__file__).parents[2] / "examples/ci/selftests"
    path = os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "MAKELEVEL": "1"}  # as under `make test-kernel`
    done = subprocess.run(["sh", script, tmp_path], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "tools/testing/selftests/liveupdate/liveupdate").exists()
    assert done.stdout.splitlines()[-1] == "every selftest passed"
