"""The guests of these tests run in a plain QEMU, and the checks find what is wrong with one."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from luod.testing import eventually, require_tool
from tests.agents.qemu.guests import SECTOR, CountingGuest

ENOUGH = 30


def counted(guest: CountingGuest) -> None:
    """Lets it count in a QEMU of this machine."""
    qemu = require_tool("qemu-system-x86_64", package="qemu-system-x86")
    with subprocess.Popen([qemu, *guest.arguments()], stdin=subprocess.DEVNULL) as running:
        try:
            eventually(lambda: len(guest.numbers()) >= ENOUGH, describe=f"it has counted to {ENOUGH}")
        finally:
            running.terminate()


@pytest.mark.parametrize("disk_format", ["raw", "qcow2"])
def test_the_counting_guest_prints_numbers_and_has_them_on_its_disk(tmp_path: Path, disk_format: str) -> None:
    guest = CountingGuest("vm", tmp_path, disk_format)
    guest.make_disk()
    counted(guest)
    assert guest.assert_nothing_is_lost() >= ENOUGH


@pytest.mark.parametrize(
    ("printed", "found"),
    [
        ("1\n2\n4\n", r"\[1, 2, 4\] as number 3 of 3"),
        ("1\n2\n2\n3\n", r"\[1, 2, 2, 3\] as number 3 of 4"),
        ("1\nlost\n", "the guest printed"),
    ],
)
def test_a_number_that_is_missing_or_there_twice_is_found(tmp_path: Path, printed: str, found: str) -> None:
    guest = CountingGuest("vm", tmp_path)
    guest.make_disk()
    guest.console.write_text(printed)
    with pytest.raises(AssertionError, match=found):
        guest.assert_nothing_is_lost()


def test_a_number_that_is_printed_and_not_on_the_disk_is_found(tmp_path: Path) -> None:
    guest = CountingGuest("vm", tmp_path)
    guest.make_disk()
    guest.console.write_text("1\n2\n3\n")
    with guest.disk.open("r+b") as disk:
        for number in (1, 2):
            disk.seek(number * SECTOR)
            disk.write(number.to_bytes(4, "little"))
    with pytest.raises(AssertionError, match=r"on its disk \[1, 2\] as number 3 of 2"):
        guest.assert_nothing_is_lost()
