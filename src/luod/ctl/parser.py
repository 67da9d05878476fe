"""luoctl's command line: the common options and the verbs. Documentation and completions are generated from it."""

from __future__ import annotations

import argparse
from collections.abc import Container

from luod.arguments import Parser
from luod.ctl.exits import MEANINGS
from luod.ctl.verbs import VERBS
from luod.version import __version__

_SHOW_ALL = ("help", "completion", "--help", "-h")
"""The words that show all verbs."""


def parser(words: Container[str] | None = None) -> Parser:
    """Returns luoctl's parser. In its namespace, `parser` is the parser of `verb`, and `program` is luoctl's.

    If it is for the command line `words` only, it has no other verbs than those among them: a verb takes 0.2 ms.
    """
    verbs = VERBS
    if words is not None and not any(word in words for word in _SHOW_ALL):
        verbs = {name: verb for name, verb in VERBS.items() if name in words} or VERBS
    top = Parser(
        prog="luoctl",
        description="Controls luod: shows its sessions, and updates the kernel with them.",
        epilog="exit status:\n" + "\n".join(f"  {code.value:<4} {meaning}" for code, meaning in MEANINGS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"luoctl {__version__}", help="print the version")
    top.set_defaults(program=top)
    common = _common(top)
    commands = top.add_subparsers(dest="verb", required=True, metavar="VERB", title="verbs")
    for name, verb in verbs.items():
        command: Parser = commands.add_parser(name, parents=[common], help=verb.SUMMARY, description=verb.DESCRIPTION)
        verb.arguments(command)
        command.set_defaults(parser=command)
        top.verbs[name] = command
    return top


def _common(top: Parser) -> Parser:
    """Adds the common options, which may be before or after the verb. Returns a parser for those after it."""
    after = Parser(add_help=False, argument_default=argparse.SUPPRESS)
    for target in (top, after):
        target.add_argument("--socket", metavar="PATH", help="luod's socket (default: /run/luod/luod.sock)")
        target.add_argument(
            "--admin-socket",
            metavar="PATH",
            help="luod's admin socket (default: that of --socket if it is given, otherwise /run/luod/admin.sock)",
        )
        target.add_argument("--json", action="store_true", help="print JSON, one object a line")
    return after
