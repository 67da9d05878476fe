"""The real kernel as a machine: it boots, does a kexec, ends, and reports its failures."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from luod.errors import MachineEnded
from luod.testing.kernel import KernelMachine

JUMPS_ONCE = """\
set -e
echo "boot $LUOD_BOOT in $PWD"
if [ $LUOD_BOOT = 2 ]; then exit 7; fi
kexec -s -l "$LUOD_KERNEL" --initrd="$LUOD_INITRD" --reuse-cmdline
kexec -e
"""


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KernelMachine]:
    """Yields a machine for the tests that do not end it; it may write to pytest's temporary directory."""
    with KernelMachine(writable=[tmp_path_factory.getbasetemp()]) as machine:
        yield machine


def test_it_is_a_kernel_with_live_update(shared: KernelMachine) -> None:
    assert shared.run(["uname", "-r"]).text != os.uname().release
    shared.run(["test", "-c", "/dev/liveupdate"])
    assert {b"liveupdate=on", b"kho=on"} <= set(shared.read("/proc/cmdline").split())


def test_the_hosts_files_are_there_and_stay_as_they_are(shared: KernelMachine, tmp_path: Path) -> None:
    assert shared.read(__file__) == Path(__file__).read_bytes()
    host = Path("/var/tmp/luod-test-of-the-root")
    shared.write(str(host), b"in the machine")
    assert shared.read(str(host)) == b"in the machine"
    assert not host.exists()


def test_what_is_shared_for_writing_is_written(shared: KernelMachine, tmp_path: Path) -> None:
    shared.write(f"{tmp_path}/file", b"from the machine")
    assert (tmp_path / "file").read_bytes() == b"from the machine"
    (tmp_path / "other").write_bytes(b"from the host")
    assert shared.read(f"{tmp_path}/other") == b"from the host"


def test_programs_run_under_other_uids(shared: KernelMachine) -> None:
    assert shared.run(["id", "-u"], user=1000).text == "1000"
    assert shared.run(["id", "-g"], user=1000, group=1001).text == "1001"


def test_a_panic_ends_it_with_the_kernels_words() -> None:
    with KernelMachine() as machine, pytest.raises(MachineEnded) as caught:
        machine.run(["sh", "-c", "echo c >/proc/sysrq-trigger"])
    assert "Kernel panic - not syncing: sysrq triggered crash" in str(caught.value)


def test_an_init_that_cannot_be_started_ends_it_with_the_kernels_words() -> None:
    with pytest.raises(MachineEnded) as caught:
        KernelMachine(command_line="rdinit=/no-such-init")
    assert "panic" in str(caught.value)


def test_nothing_is_left_of_a_closed_one() -> None:
    with KernelMachine() as machine:
        pid, folder = machine.pid, machine.folder
        assert "luod-kernel-" in folder.name
        assert Path(f"/proc/{pid}/exe").resolve().name.startswith("qemu-system")
    assert not Path(f"/proc/{pid}").exists()
    assert not folder.exists()


def test_by_hand_a_command_runs_in_every_boot(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "luod.testing.kernel",
        "--log",
        str(tmp_path / "log"),
        "--",
        "sh",
        "-c",
        JUMPS_ONCE,
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300)
    assert done.stdout == f"boot 1 in {tmp_path}\nboot 2 in {tmp_path}\n", done.stderr
    assert done.returncode == 7
    assert (tmp_path / "log").read_text(errors="replace").count("Linux version 7.") == 2
