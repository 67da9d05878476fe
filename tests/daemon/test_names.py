"""Names luod takes and does not take."""

from __future__ import annotations

import pytest
from asyncvarlink import TypedVarlinkErrorReply

from luod.daemon.names import check_name


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
