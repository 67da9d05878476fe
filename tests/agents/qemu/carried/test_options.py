"""The table of QEMU's options is that of the real ones: a start for each option."""

from __future__ import annotations

import subprocess

import pytest

from luod.agents.qemu.options import CHARACTER_DEVICES, FLAGS, IMPLIED, PLAIN
from tests.agents.qemu import qemus

REMOVED = {"async-teardown", "audio-help", "chroot", "no-acpi", "no-hpet", "old-param", "portrait", "rotate", "runas"}
REMOVED |= {"singlestep"}
"""Options that QEMU 11.1 has no more."""
ADDED = {"jitdump", "perfmap", "run-with", "shim"}
"""Options that QEMU 7.2 does not have yet."""


@pytest.mark.parametrize("which", qemus.WHICH)
def test_the_options_with_and_without_a_value_are_those_of_qemu(which: str) -> None:
    """QEMU reads the names of all options first, and ends at the first that it does not know."""
    program = qemus.path(which)
    missing = ADDED if which == "installed" else REMOVED
    wrong = []
    for name in sorted((FLAGS | PLAIN | CHARACTER_DEVICES | IMPLIED.keys()) - missing):
        said = subprocess.run(
            [program, f"-{name}", "-first", "-second"],
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=60,
        ).stderr
        unknown = "-first: invalid option" if name in FLAGS else "-second: invalid option"
        if unknown not in said:
            wrong.append((name, said))

    assert not wrong
