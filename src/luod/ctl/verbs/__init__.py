"""luoctl's verbs, a module each: its options, and what it asks luod and prints.

A verb raises LuodError and OSError, and UsageError for options that contradict each other; `luod.ctl.main` prints them.
"""

from __future__ import annotations

from argparse import Namespace
from typing import Final, Protocol

from luod.arguments import Parser
from luod.ctl.exits import Exit
from luod.ctl.output import Output
from luod.ctl.verbs import (
    abort,
    carry_over,
    check,
    completion,
    discard,
    help,
    list,
    load,
    metrics,
    release,
    show,
    status,
    stop,
    timeline,
    update,
    wait,
)


class Verb(Protocol):
    """What a module of this package has. What a verb needs is imported when it runs, since start-up counts."""

    @property
    def SUMMARY(self) -> str:
        """The line in the list of verbs."""

    @property
    def DESCRIPTION(self) -> str:
        """The text of its own help."""

    def arguments(self, parser: Parser) -> None:
        """Adds its options and arguments."""

    def run(self, given: Namespace, output: Output) -> Exit:
        """Does it, and returns luoctl's exit status."""


VERBS: Final[dict[str, Verb]] = {
    "status": status,
    "list": list,
    "show": show,
    "check": check,
    "load": load,
    "update": update,
    "abort": abort,
    "wait": wait,
    "discard": discard,
    "release": release,
    "carry-over": carry_over,
    "timeline": timeline,
    "metrics": metrics,
    "stop": stop,
    "help": help,
    "completion": completion,
}
"""In the order of luoctl's help."""
