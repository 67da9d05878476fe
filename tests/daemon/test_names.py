"""Names luod takes and does not take."""

from __future__ import annotations

import pytest
from asyncvarlink import TypedVarlinkErrorReply

from luod.daemon.names import check_base, check_name
from luod.daemon.record import Row


@pytest.mark.parametrize("name", ["a", "vm-1", "A.b_c@d/e#2", "x" * 63, "-", ".", "/", "systemd.vm", "my-luod"])
def test_a_name_that_is_taken(name: str) -> None:
    check_name(name)


@pytest.mark.parametrize(
    "name", ["", "x" * 64, "a b", "ü", "a\n", "\n", "a\0", "a:b", "%s", "systemd", "luod", "luod-x", "luodian"]
)
def test_a_name_that_is_not(name: str) -> None:
    with pytest.raises(TypedVarlinkErrorReply) as raised:
        check_name(name)
    assert raised.value.name == "io.luod.Sessions.InvalidName"
    assert raised.value.parameters["name"] == name
    assert raised.value.parameters["hint"]


def test_what_is_written_while_frozen_has_the_name_of_one_that_is_there() -> None:
    check_base("vm#7", Row("outgoing", "vm", 1000))
    for name in ("vm", "vm#", "#7", "vm#7a"):
        check_base(name, None)
    with pytest.raises(TypedVarlinkErrorReply) as raised:
        check_base("vm#7", None)
    assert raised.value.name == "io.luod.Sessions.InvalidName"
