"""Command lines of luod's programs: one form of usage errors, with the nearest word. Imports nothing of the house.

Options cannot be abbreviated: scripts would keep the abbreviations.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Iterable, Iterator, Sequence

from luod.static import Any, Final, NoReturn

MOST_SECONDS: Final = 86400.0


def _untranslated(text: str) -> str:
    return text


# argparse looks in the file system for a translation of each of its words. Python brings none, and the look-up takes
# 4 ms of each start of luod, 8 ms of luoctl's.
argparse._ = _untranslated  # type: ignore[attr-defined]  # argparse's own name for gettext


class UsageError(Exception):
    """The command line is wrong. `usage` is the usage line of the verb, `hint` the nearest word, "" without one."""

    def __init__(self, message: str, usage: str, hint: str = "") -> None:
        super().__init__(message)
        self.usage = usage
        self.hint = hint


class Parser(argparse.ArgumentParser):
    """Raises UsageError where argparse would print and exit. `verbs` are the parsers of its verbs.

    `takes_command`: its positional arguments are a command with options of its own. They begin with the first word that
    is not an option, or after `--`.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{"allow_abbrev": False, **settings})
        self.verbs: dict[str, Parser] = {}
        self.takes_command = False

    def parse(self, words: Sequence[str]) -> argparse.Namespace:
        """Returns the arguments. UsageError; SystemExit after --help and --version; OSError: they cannot be printed."""
        verb, command = self._checked(words)
        if verb.takes_command and list(words[command : command + 1]) != ["--"]:
            words = [*words[:command], "--", *words[command:]]
        given, rest = self.parse_known_args(words)
        if rest:
            verb.error(f"unexpected argument {rest[0]!r}")
        return given

    def error(self, message: str) -> NoReturn:
        raise UsageError(message, self.usage_line())

    def usage_line(self) -> str:
        return " ".join(self.format_usage().split())

    def unknown(self, kind: str, word: str, known: Iterable[str]) -> NoReturn:
        """Raises UsageError for a word that is not among the known ones, with the nearest of these."""
        from difflib import get_close_matches  # needed for an error only, and start-up counts

        nearest = get_close_matches(word, known, n=1)
        hint = f"did you mean {nearest[0]}?" if nearest else ""
        raise UsageError(f"unknown {kind} {word!r}", self.usage_line(), hint)

    def _checked(self, words: Sequence[str]) -> tuple[Parser, int]:
        """Returns the parser of the verb, and the index of the first word of a command, or of the `--` before it.

        UsageError for a verb or an option that does not exist.
        """
        parser = self
        rest = iter(enumerate(words))
        for index, word in rest:
            if word == "--":
                return parser, index
            if word.startswith("-") and word != "-":
                parser._check_option(word, rest)
            elif parser.verbs:
                if word not in parser.verbs:
                    parser.unknown("verb", word, parser.verbs)
                parser = parser.verbs[word]
            elif parser.takes_command:
                return parser, index
        return parser, len(words)

    def _check_option(self, word: str, rest: Iterator[tuple[int, str]]) -> None:
        """Takes the value of the option from `rest`, if the option has one."""
        name, equals, _ = word.partition("=")
        if name not in self._option_string_actions:
            self.unknown("option", name, self._option_string_actions)
        if self._option_string_actions[name].nargs is None and not equals:
            next(rest, None)

    def _print_message(self, message: str, file: Any = None) -> None:
        """Raises OSError, which argparse ignores since Python 3.12."""
        if message:
            (file or sys.stderr).write(message)


def seconds(word: str) -> float:
    """Reads a value of an option that is a time."""
    with contextlib.suppress(ValueError):
        if 0 < (found := float(word)) <= MOST_SECONDS:
            return found
    raise argparse.ArgumentTypeError(f"{word!r} must be a positive number of seconds, at most {MOST_SECONDS:.0f}")


def report(program: str, message: str, *, usage: str = "", hint: str = "", prefix: str = "") -> None:
    """Prints an error to standard error: the message, the usage line and the hint, each on a line of its own.

    Does nothing where standard error is closed or cannot be written, such as a pipe without a reader: the exit status
    tells.
    """
    if sys.stderr is None:
        return  # print would take standard output, where programs expect JSON
    lines = [f"{program}: {message}", usage, f"hint: {hint}" if hint else ""]
    try:
        print("\n".join(prefix + line for line in lines if line), file=sys.stderr, flush=True)
    except OSError:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - at its end Python would fail to flush the broken one
