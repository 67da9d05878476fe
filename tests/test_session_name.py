"""`SessionName`: one name for each workload and update, taken apart as it was put together."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luod.errors import BadInput
from luod.session_name import SessionName, is_allowed

TEXT = st.text(alphabet="ab#019.luod", max_size=66)


@pytest.mark.parametrize(
    ("text", "base", "generation"),
    [
        ("vm", "vm", None),
        ("vm#7", "vm", 7),
        ("vm#0", "vm", 0),
        ("#7", "#7", None),
        ("##7", "#", 7),
        ("vm#", "vm#", None),
        ("vm#7a", "vm#7a", None),
        ("vm#7/x", "vm#7/x", None),
        ("a#b#0", "a#b", 0),
        ("x" * 61 + "#1", "x" * 61, 1),
    ],
)
def test_a_name_is_taken_apart(text: str, base: str, generation: int | None) -> None:
    assert SessionName.parse(text) == SessionName(base, generation)
    assert str(SessionName(base, generation)) == text


@pytest.mark.parametrize(
    "text", ["", "x" * 64, "x" * 62 + "#1", "a b", "ü", "vm#٣", "a\n", "a\0", "systemd", "systemd#1", "luod", "luod#1"]
)
def test_a_name_that_no_session_may_have(text: str) -> None:
    with pytest.raises(BadInput) as refused:
        SessionName.parse(text)
    assert refused.value.hint


@pytest.mark.parametrize("text", ["vm#007", "vm#00", "vm#1#2", "vm#1#02"])
def test_a_generation_is_written_in_one_way_and_once(text: str) -> None:
    with pytest.raises(BadInput, match="is not a valid session name"):
        SessionName.parse(text)


@pytest.mark.parametrize("other", [None, 7, b"vm", ["vm"]])
def test_a_name_is_text(other: object) -> None:
    with pytest.raises(BadInput, match="text"):
        SessionName.parse(other)


def test_a_generation_that_does_not_fit_is_refused_before_luod_is_asked() -> None:
    with pytest.raises(BadInput):
        SessionName("x" * 62, 1)


@given(TEXT)
def test_what_is_taken_is_given_back_and_is_of_the_allowed_characters(text: str) -> None:
    try:
        name = SessionName.parse(text)
    except BadInput:
        return
    assert str(name) == text
    assert is_allowed(text)
    assert SessionName.parse(name.base) == SessionName(name.base)


@given(TEXT, st.integers(min_value=-2, max_value=2**70))
def test_no_two_names_are_written_the_same(base: str, generation: int) -> None:
    try:
        name = SessionName(base, generation)
    except BadInput:
        return
    assert SessionName.parse(str(name)) == name
