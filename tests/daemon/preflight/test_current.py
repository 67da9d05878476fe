"""Whether an update would start the running kernel again."""

from __future__ import annotations

from pathlib import Path

import pytest

from luod import image
from luod.daemon.preflight.check import is_current
from luod.daemon.preflight.facts import KernelFile
from luod.daemon.preflight.running import Running, running
from luod.daemon.systemd.manager import Manager
from luod.frozen import replace
from luod.image.contents import Contents
from tests.daemon.preflight.test_ways import facts

OWN, OTHER, VDSO = "0" * 40, "1" * 40, "2" * 40


@pytest.mark.parametrize(
    ("build_id", "ids", "line", "expected"),
    [
        (OWN, (OWN, VDSO), "quiet", True),
        (OWN, (OTHER, VDSO), "quiet", False),
        (OWN, (OWN, VDSO), "quiet root=/dev/vda", False),
        ("", (), "quiet", False),
    ],
    ids=["same", "another build", "another command line", "no build id"],
)
def test_it_is_the_running_kernel_by_build_id_and_command_line(
    build_id: str, ids: tuple[str, ...], line: str, expected: bool
) -> None:
    now = replace(
        facts("direct", Manager()),
        kernel=KernelFile((1,), image.Kernel(None, Contents("7.3.4", (), build_ids=ids))),
        running=Running(command_line="quiet", build_id=build_id),
        command_line=line,
    )
    assert is_current(now) is expected


def test_an_image_that_cannot_be_read_is_not_the_running_kernel() -> None:
    unread = replace(facts("direct", Manager()), kernel=KernelFile((1,)), running=Running(build_id=OWN))
    assert not is_current(unread)


def test_the_running_kernels_build_id_is_in_its_notes(tmp_path: Path) -> None:
    (tmp_path / "sys/kernel").mkdir(parents=True)
    note = b"\x04\0\0\0\x14\0\0\0\x03\0\0\0GNU\0" + bytes.fromhex(OTHER)
    (tmp_path / "sys/kernel/notes").write_bytes(b"\x04\0\0\0\x01\0\0\0\x01\0\0\0Xen\0a\0\0\0" + note)

    assert running(tmp_path).build_id == OTHER
    assert running(tmp_path / "nothing").build_id == ""
