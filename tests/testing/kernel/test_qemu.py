"""QEMU's command line, and the messages where QEMU or a kernel is missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from luod.errors import MachineUnavailable
from luod.testing.kernel import KernelMachine, qemu
from luod.testing.kernel.initramfs import Share


def test_the_kernel_is_a_file_or_the_folder_with_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    image = tmp_path / "bzImage"
    image.write_bytes(b"")
    for value in (image, tmp_path):
        monkeypatch.setenv("LUOD_KERNEL", str(value))
        assert qemu.kernel_image() == str(image)
    monkeypatch.delenv("LUOD_KERNEL")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    built = tmp_path / "cache/luod/kernel/current/bzImage"
    built.parent.mkdir(parents=True)
    built.write_bytes(b"")
    assert qemu.kernel_image() == str(built)


def test_a_missing_kernel_is_said_with_how_to_get_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LUOD_KERNEL", str(tmp_path / "none"))
    with pytest.raises(MachineUnavailable, match="no kernel image") as caught:
        KernelMachine()
    assert "make kernel" in caught.value.hint


def test_a_missing_qemu_is_said_and_nothing_is_left(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    with pytest.raises(MachineUnavailable, match="needs qemu-system-x86_64, of the Debian package qemu-system-x86"):
        KernelMachine(kernel=tmp_path / "bzImage")
    assert list(tmp_path.iterdir()) == []


def test_paths_with_commas_are_one_value() -> None:
    argv = qemu.command(
        "qemu",
        kernel="/k",
        initrd="/i",
        command_line="quiet",
        memory="1G",
        processors=2,
        serial_log="/a,b/log",
        agent_fd=5,
        shares=[Share("share0", "/a,b")],
        disk=None,
        arguments=["-device", "edu"],
    )
    assert "file:/a,,b/log" in argv
    assert "local,id=share0,path=/a,,b,security_model=none,multidevs=remap" in argv
    assert argv[-2:] == ["-device", "edu"]
