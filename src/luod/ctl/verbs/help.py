"""`luoctl help`"""

from __future__ import annotations

from argparse import Namespace

from luod.arguments import Parser
from luod.ctl.exits import Exit
from luod.ctl.output import Output

SUMMARY = "show help on luoctl or on a verb"
DESCRIPTION = "Shows the help of luoctl, or of a verb."


def arguments(parser: Parser) -> None:
    parser.add_argument("topic", nargs="?", metavar="VERB", help="the verb")


def run(given: Namespace, output: Output) -> Exit:
    program: Parser = given.program
    if given.topic is None:
        program.print_help()
    elif given.topic in program.verbs:
        program.verbs[given.topic].print_help()
    else:
        given.parser.unknown("verb", given.topic, program.verbs)
    return Exit.DONE
