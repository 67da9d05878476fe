"""What a QEMU can do is asked of it, and another program is recognised, in time."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from luod.agents.qemu.capabilities import probe
from luod.errors import QemuEnded, QemuRefusal
from tests.agents.qemu import qemus


def test_the_installed_qemu_is_asked() -> None:
    found = qemus.capabilities("installed")

    assert found.versioned("q35") in found.machines
    assert found.versioned("q35") != "q35"
    assert found.versioned(found.default_machine) == found.default_machine
    assert "none" not in found.machines


@pytest.mark.skipif("newer" not in qemus.WHICH, reason="LUOD_NEWER_QEMU is not given")
def test_what_a_newer_qemu_can_do_is_seen_in_its_schema() -> None:
    found = qemus.capabilities("newer")

    assert found.file_uri
    assert {"normal", "cpr-reboot", "cpr-transfer"} <= set(found.modes)
    assert found.cpr_transfer


def test_a_driver_that_is_missing_is_named_and_short_names_are_known() -> None:
    asked = ("virtio-blk", "virtio-blk-pci", "e1000", "qemu-xhci", "no-such-device", "AC97")

    assert asyncio.run(probe(qemus.path("installed"), asked)).lacks == ("no-such-device",)


def test_a_program_that_does_not_exist_is_refused() -> None:
    with pytest.raises(QemuRefusal, match="no program"):
        asyncio.run(probe("/nonexistent/qemu"))


@pytest.mark.parametrize(
    "script",
    [
        "exit 1",
        "echo garbage >&2",
        "yes | head -c 1000000; sleep 600",
        "sleep 600",
        "sleep 600 & sleep 600",
        "kill -9 $$",
    ],
)
def test_a_program_that_is_no_qemu_ends_in_an_error_in_time(tmp_path: Path, script: str) -> None:
    program = tmp_path / "qemu"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)

    with pytest.raises(QemuEnded, match="does not answer as a QEMU"):
        asyncio.run(probe(str(program), within=1))


def test_a_program_that_speaks_nonsense_is_no_qemu(tmp_path: Path) -> None:
    program = tmp_path / "qemu"
    program.write_text(
        "#!/bin/sh\nfor file in /dev/fd/*; do n=${file##*/}; [ -S $file ] && eval \"echo '{}' >&$n\"; done\n"
    )
    program.chmod(0o755)

    with pytest.raises(QemuEnded, match="does not answer as a QEMU"):
        asyncio.run(probe(str(program), within=5))


def test_a_file_that_cannot_run_is_no_qemu(tmp_path: Path) -> None:
    program = tmp_path / "qemu"
    program.write_bytes(b"\x7fELF")
    program.chmod(0o755)

    with pytest.raises(QemuEnded, match="cannot be started"):
        asyncio.run(probe(str(program)))
