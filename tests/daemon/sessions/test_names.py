"""Names luod takes and does not take."""

from __future__ import annotations

import pytest

from luod.daemon.sessions.names import check_generation, parsed
from luod.ipc.errors import WireError


@pytest.mark.parametrize("name", ["a", "vm-1", "A.b_c@d/e#2", "x" * 63, "-", ".", "/", "systemd.vm", "my-luod"])
def test_a_name_that_is_taken(name: str) -> None:
    assert str(parsed(name)) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        "x" * 64,
        "a b",
        "ü",
        "a\n",
        "\n",
        "a\0",
        "a:b",
        "%s",
        "systemd",
        "luod",
        "luod-x",
        "luodian",
        "luod#1",
        "vm#007",
        "vm#1#2",
    ],
)
def test_a_name_that_is_not(name: str) -> None:
    with pytest.raises(WireError) as raised:
        parsed(name)
    assert raised.value.name == "io.luod.Sessions.InvalidName"
    assert raised.value.parameters["name"] == name
    assert raised.value.parameters["hint"]


@pytest.mark.parametrize("name", ["vm", "vm#", "#7", "vm#7a", "vm#7/x"])
def test_a_name_that_is_no_updates_is_taken_at_any_time(name: str) -> None:
    check_generation(parsed(name), has_base=False, state="idle")


@pytest.mark.parametrize("name", ["vm#7", "a#b#0", "##1"])
@pytest.mark.parametrize(("has_base", "error"), [(True, "WrongPhase"), (False, "InvalidName")])
def test_a_name_of_an_update_that_does_not_freeze_is_refused_with_the_remedy(
    name: str, has_base: bool, error: str
) -> None:
    with pytest.raises(WireError) as raised:
        check_generation(parsed(name), has_base=has_base, state="idle")
    assert raised.value.name == f"io.luod.Sessions.{error}"
    assert "does not end in # and a number" in raised.value.parameters["hint"]
