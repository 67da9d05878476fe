"""luoctl's parser for one command line: it has the verbs that this needs, and answers as the whole one."""

from __future__ import annotations

import shlex

import pytest

from luod.arguments import UsageError
from luod.ctl.parser import parser
from luod.ctl.verbs import VERBS

LINES = [
    "",
    "--json",
    "stauts",
    "--jsno status",
    "status --jsno",
    "status update",
    "status --socket",
    "show",
    "update --wait soon",
    "--socket status list",
]


@pytest.mark.parametrize("line", LINES)
def test_the_answer_is_that_of_the_whole_parser(line: str) -> None:
    words = shlex.split(line)

    assert answer(words, whole=False) == answer(words, whole=True)


def test_other_verbs_are_not_made() -> None:
    assert [*parser(["--json", "status"]).verbs] == ["status"]


@pytest.mark.parametrize(
    "words", [["help", "status"], ["completion", "list"], ["--help", "status"], ["-h"], ["stauts"]]
)
def test_what_shows_all_verbs_has_all(words: list[str]) -> None:
    assert parser(words).verbs.keys() == VERBS.keys()


def answer(words: list[str], *, whole: bool) -> object:
    """Returns the arguments or the error, without the parsers themselves."""
    try:
        given = vars((parser() if whole else parser(words)).parse(words))
    except UsageError as error:
        return str(error), error.usage, error.hint
    return {name: value for name, value in given.items() if name not in ("parser", "program")}
