"""luoctl's verbs. Each has a module, which adds its options, makes its calls and prints the replies.

A verb raises LuodError and OSError, and UsageError for options that contradict each other; `luod.ctl.main` prints them.
"""

from __future__ import annotations

from argparse import Namespace
from typing import Final, Protocol

from luod.arguments import Parser
from luod.ctl.output import Output
from luod.ctl.verbs import (
    abort,
    carry_over,
    check,
    completion,
    discard,
    fleet_lock,
    help,
    libvirt,
    list,
    load,
    metrics,
    qemu,
    release,
    show,
    status,
    stop,
    timeline,
    unload,
    update,
    wait,
)


class Verb(Protocol):
    """The interface of a module of this package. Verbs import what they need in `run`, for a short start-up time."""

    @property
    def SUMMARY(self) -> str:
        """Returns the verb's line in the list of verbs."""

    @property
    def DESCRIPTION(self) -> str:
        """Returns the text of the verb's help."""

    def arguments(self, parser: Parser) -> None:
        """Adds the verb's options and arguments."""

    def run(self, given: Namespace, output: Output) -> int:
        """Runs the verb. Returns luoctl's exit status: an Exit, or what another program expects of it."""


VERBS: Final[dict[str, Verb]] = {
    "status": status,
    "list": list,
    "show": show,
    "check": check,
    "load": load,
    "unload": unload,
    "update": update,
    "abort": abort,
    "wait": wait,
    "discard": discard,
    "release": release,
    "carry-over": carry_over,
    "timeline": timeline,
    "metrics": metrics,
    "fleet-lock": fleet_lock,
    "qemu": qemu,
    "libvirt": libvirt,
    "stop": stop,
    "help": help,
    "completion": completion,
}
"""The verbs in the order of luoctl's help."""
