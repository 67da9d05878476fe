"""The reader of plain command lines: what it reads, the parser reads the same way."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luod.daemon import command_line
from luod.daemon.options import Options, plain

_NAMES = ("--socket", "--admin-socket", "--state-directory", "--log-level", "--config")
_WORDS = (*_NAMES, "--log", "--end-stuck-after", "--help", "-", "--", "debug", "3", "/run/x", "", "check-config")
_WORD = st.one_of(
    st.sampled_from(_WORDS),
    st.builds("{}={}".format, st.sampled_from(_NAMES), st.sampled_from(("debug", "/run/y", "-z", ""))),
)


@given(st.lists(_WORD, max_size=6))
def test_what_is_plain_is_read_as_the_parser_reads_it(words: list[str]) -> None:
    options = plain(words)
    if options is not None:
        assert command_line.options(command_line.parser().parse(words)) == options


def test_all_options_but_a_number_are_plain() -> None:
    words = ["--socket", "a", "--admin-socket=b", "--state-directory", "c", "--log-level=debug", "--config", "d"]
    assert plain(words) == Options("a", "b", "c", "debug", 10.0, "d")
    assert plain([]) == Options()


@pytest.mark.parametrize(
    "words", [["--end-stuck-after", "3"], ["--help"], ["check-config"], ["--socket"], ["--sock=x"]]
)
def test_what_is_not_plain_is_left_to_the_parser(words: list[str]) -> None:
    assert plain(words) is None
