"""`eventually`: the awaited condition comes, or the failure says what did not."""

from __future__ import annotations

import pytest

from luod.testing import eventually


def test_it_returns_what_it_waited_for() -> None:
    answers = iter([0, "", None, "here"])
    assert eventually(lambda: next(answers), describe="an answer") == "here"


def test_it_says_what_did_not_come_and_what_was_seen_last() -> None:
    with pytest.raises(AssertionError, match=r"not within 0 s: the third boot; last seen: \[\]"):
        eventually(list, within=0, describe="the third boot")
