"""A command line of QEMU is split as QEMU splits it."""

from __future__ import annotations

import pytest

from luod.agents.qemu.options import split
from luod.errors import QemuRefusal


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
