"""A command line of QEMU is split as QEMU splits it."""

from __future__ import annotations

import subprocess

import pytest

from luod.agents.qemu.options import CHARACTER_DEVICES, FLAGS, IMPLIED, PLAIN, split
from luod.errors import QemuRefusal
from tests.agents.qemu import qemus

REMOVED = {"async-teardown", "audio-help", "chroot", "no-acpi", "no-hpet", "old-param", "portrait", "rotate", "runas"}
REMOVED |= {"singlestep"}
"""Options that QEMU 11.1 has no more."""
ADDED = {"jitdump", "perfmap", "run-with", "shim"}
"""Options that QEMU 7.2 does not have yet."""


def test_one_dash_and_two_are_the_same() -> None:
    one, two = split(["-m", "1G", "--m", "1G"])

    assert (one.name, one.value, one.parameters) == (two.name, two.value, two.parameters)


def test_the_word_after_an_option_is_its_value_also_with_a_dash() -> None:
    (option,) = split(["-append", "-quiet"])

    assert option.value == "-quiet"


def test_a_word_without_an_option_is_a_disk() -> None:
    assert [option.name for option in split(["disk.img", "-S", "other.img"])] == ["", "S", ""]


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        (["-m=1G"], "does not know", "-m VALUE"),
        (["-mach", "q35"], "does not know", "leave it out"),
        (["-"], "does not know", ""),
        (["-S", "-m"], "needs a value", "next word"),
        (["-name", "a\0b"], "NUL", ""),
        (["a\0b"], "NUL", ""),
    ],
)
def test_what_qemu_cannot_read_is_refused_with_the_reason(arguments: list[str], message: str, hint: str) -> None:
    with pytest.raises(QemuRefusal, match=message) as caught:
        split(arguments)

    assert hint in caught.value.hint


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
