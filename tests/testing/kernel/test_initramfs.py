"""The initramfs of a real-kernel machine, read by the tool that made the format."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from luod.errors import MachineUnavailable
from luod.testing import require_tool
from luod.testing.kernel.initramfs import Archive, Share, initramfs

# The smallest file that passes for a static program of 64 bits: a header without program headers.
STATIC = b"\x7fELF\x02\x01\x01".ljust(64, b"\0")


def unpacked(archive: bytes, folder: Path) -> str:
    """Unpacks `archive` into `folder`; returns the table of contents."""
    cpio = require_tool("cpio", package="cpio")
    table = subprocess.run([cpio, "-itv", "--quiet"], input=archive, capture_output=True, check=True)
    patterns = ["init", "bin/*", "empty", "odd"]
    subprocess.run([cpio, "-id", "--quiet", *patterns], input=archive, cwd=folder, check=True, capture_output=True)
    return table.stdout.decode()


def test_cpio_reads_what_was_added(tmp_path: Path) -> None:
    archive = Archive()
    archive.add("empty", 0o100640)
    archive.add("odd", 0o100755, data=b"x" * 4095)
    archive.add("node", 0o020600, device=(5, 1))
    archive.add("folder", 0o040755)
    lines = unpacked(archive.finished(), tmp_path).splitlines()
    assert [line.split()[0] for line in lines] == ["-rw-r-----", "-rwxr-xr-x", "crw-------", "drwxr-xr-x"]
    assert "5,   1" in lines[2]
    assert (tmp_path / "odd").read_bytes() == b"x" * 4095
    assert (tmp_path / "empty").read_bytes() == b""


def test_init_runs_the_command_whatever_is_in_it(tmp_path: Path) -> None:
    busybox = tmp_path / "busybox"
    busybox.write_bytes(STATIC)
    shares = [Share("share0", "/srv/a folder; with 'quotes'")]
    archive = initramfs(["run", "it's $HOME"], environment={"A": "b c"}, shares=shares, busybox=busybox)
    unpacked(archive, tmp_path)
    init = (tmp_path / "init").read_text()
    assert subprocess.run(["sh", "-n"], input=init, text=True, check=False).returncode == 0
    # A shell's view of the words at its end, and of the share's path.
    mkdir = next(line for line in init.splitlines() if line.startswith("mkdir -p .") and "srv" in line)
    words = f"set -- {init.splitlines()[-1]}; printf '%s\\n' \"$@\"; {mkdir.replace('mkdir -p', 'echo')}"
    shown = subprocess.run(["sh", "-c", words], capture_output=True, text=True, check=True).stdout.splitlines()
    assert shown[-6:] == ["A=b c", "switch_root", "/new", "run", "it's $HOME", "./srv/a folder; with 'quotes'"]


@pytest.mark.parametrize("what", ["missing", "a script", "dynamic"])
def test_busybox_must_be_a_static_program(tmp_path: Path, what: str) -> None:
    busybox = tmp_path / "busybox"
    match what:
        case "a script":
            busybox.write_text("#!/bin/sh\n")
        case "dynamic":
            busybox.symlink_to(sys.executable)
    with pytest.raises(MachineUnavailable, match="busybox-static"):
        initramfs(["sh"], environment={}, busybox=busybox)
