"""`luoctl completion`"""

from __future__ import annotations

from argparse import Namespace

from luod.arguments import Parser
from luod.ctl.exits import Exit
from luod.ctl.output import Output

SUMMARY = "print a completion script for bash, zsh or fish"
DESCRIPTION = (
    "Prints a script that completes verbs, options, files and, where luod answers, names of sessions. For bash: "
    "luoctl completion bash >/etc/bash_completion.d/luoctl"
)


def arguments(parser: Parser) -> None:
    parser.add_argument("shell", choices=("bash", "zsh", "fish"), help="the shell")


def run(given: Namespace, output: Output) -> Exit:
    from luod.ctl import completion

    output.line(completion.SCRIPTS[given.shell](given.program).rstrip())
    return Exit.DONE
