"""`luoctl list`"""

from __future__ import annotations

from argparse import Namespace

from luod.arguments import Parser
from luod.ctl.exits import Exit
from luod.ctl.output import Output, escaped

SUMMARY = "list sessions"
DESCRIPTION = "Lists your sessions. Root sees the sessions of all users."


def arguments(parser: Parser) -> None:
    parser.add_argument("--names", action="store_true", help="print only names, one a line")


def run(given: Namespace, output: Output) -> Exit:
    from luod.client import Client

    found = Client(given.socket).sessions()
    if output.json:
        output.object({"sessions": found})
    elif given.names:
        for name in dict.fromkeys(session.name for session in found):
            output.line(escaped(name))
    else:
        rows = [(s.name, str(s.owner), s.direction, s.state) for s in found]
        output.table(("NAME", "OWNER", "DIRECTION", "STATE"), [[escaped(cell) for cell in row] for row in rows])
    return Exit.DONE
