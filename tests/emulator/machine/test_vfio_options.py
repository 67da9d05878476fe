"""`luoemu run --vfio` and its company: what it takes, what it refuses in which words; what others do not pay."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from luod.emulator.machine.main import main
from tests.emulator.machine.conftest import RunDevices, environment

Run = Callable[..., "subprocess.CompletedProcess[str]"]


def refused(capsys: pytest.CaptureFixture[str], *options: str) -> str:
    """Returns what `luoemu run` writes about a usage that it refuses before it makes a machine."""
    assert main(["run", *options, "--", "true"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    return said.err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--vfio", "01:00.0"], "'01:00.0' is no PCI address"),
        (["--vfio", "0000:01:00.0,speed=3"], "no 'speed'"),
        (["--vfio", "0000:01:00.0,msix=many"], "msix is a number"),
        (["--vfio", "0000:01:00.0,msix=4000"], "0 to 256 MSI-X vectors"),
        (["--vfio", "0000:01:00.0,bars=16Q"], "bars are sizes"),
        (["--vfio", "0000:01:00.0,bars=16K+8G"], "a BAR's size is a power of two, 4K to 256M, and not 8589934592"),
        (["--vfio-rules", "v2"], "--vfio-rules is of devices: add --vfio or --devices"),
        (["--iommufd-preservation"], "--iommufd-preservation is of devices: add --vfio or --devices"),
        (["--vfio", "0000:01:00.0", "--vfio", "0000:01:00.0"], "0000:01:00.0 is described twice"),
        (
            ["--vfio", "0000:01:00.1,vf-of=0000:01:00.0"],
            "virtual function of 0000:01:00.0, which is not described",
        ),
        (["--devices", "/dev/zero"], "/dev/zero: not a regular file"),
        (["--vfio", "0000:01:00.0,bars=4K"], "the first BAR"),
        (["--vfio", "0000:01:00.0,display=yes"], "display is said or left out"),
        (["--vfio", "0000:01:00.0,msix=1,msix=2"], "given twice"),
        (["--vfio", "0000:01:00.0", "--trap-opens"], "devices need FUSE"),
        (["--vfio", "0000:01:00.0", "--vfio-rules", "v3"], "invalid choice: 'v3'"),
        (["--devices", "/no/such/file"], "/no/such/file: No such file"),
    ],
)
def test_refused_by_the_command_line(capsys: pytest.CaptureFixture[str], options: list[str], words: str) -> None:
    assert words in refused(capsys, *options)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[", "not valid TOML"),
        ("address = 1", "address must be a table"),
        ('["0000:01:00.0"]\nmsix = "x"', "0000:01:00.0: msix is a number"),
        ('["0000:01:00.0"]\nmsix = true', "0000:01:00.0: msix is a number"),
        ('["01"]', "'01' is no PCI address"),
        ('["0000:01:00.0"]\nbars = [1.5]', "bars are sizes"),
    ],
)
def test_refused_in_a_file(capsys: pytest.CaptureFixture[str], tmp_path: Path, content: str, words: str) -> None:
    file = tmp_path / "devices.toml"
    file.write_text(content)
    said = refused(capsys, "--devices", str(file))
    assert f"{file}: " in said
    assert words in said


def test_a_file_too_large_for_devices_is_not_read(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "devices.toml"
    with file.open("wb") as sparse:
        sparse.truncate(1 << 40)
    assert f"{file}: larger than 1 MiB" in refused(capsys, "--devices", str(file))


def test_a_pipe_with_devices_is_refused_without_a_wait(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert "not a regular file" in refused(capsys, "--devices", str(tmp_path / "pipe"))


def test_file_of_devices(run_devices: RunDevices, tmp_path: Path) -> None:
    file = tmp_path / "devices.toml"
    file.write_text(
        """
        ["0000:01:00.0"]
        vendor = 0x8086
        display = true
        bars = ["16K", 4096]
        ["0000:02:00.0"]
        driver = "nvme"
        """
    )
    source = """
        assert len(os.listdir("/sys/bus/pci/devices")) == 6
        assert sysfs(DEVICE, "class").read_text() == "0x030000\\n"
        assert sysfs("0000:02:00.0", "driver").exists() and sysfs("0000:03:00.0", "vendor").exists()
    """
    run_devices(source, "--devices", str(file), "--vfio", "0000:03:00.0")


def test_machine_without_devices_knows_nothing_of_them(run_machine: Run) -> None:
    source = """
        for path in ("/dev/iommu", "/dev/vfio"):
            assert not os.path.exists(path)
    """
    done = run_machine(source)
    assert done.returncode == 0, done.stderr
    program = """
import sys
from luod.emulator.machine.main import main
main(["run", "--", "true"])
words = ("vfio", "device", "fuse.tree", "tomllib")
loaded = [name for name in sys.modules if any(word in name for word in words)]
assert loaded == ["luod.uapi.vfio"], loaded
"""
    subprocess.run([sys.executable, "-S", "-c", program], env=environment(), check=True)
