"""`luoctl timeline`"""

from __future__ import annotations

from argparse import Namespace

from luod.arguments import Parser
from luod.ctl.exits import Exit
from luod.ctl.output import Output

SUMMARY = "show phases and blackout of each session in the last update"
DESCRIPTION = "Shows the update that is running, or the last one: phases, and the blackout of each session."


def arguments(parser: Parser) -> None:
    parser.add_argument("--svg", metavar="FILE", help="also draw it into FILE as an SVG picture")


def run(given: Namespace, output: Output) -> Exit:
    from luod.ctl import admin, timeline

    found = admin.timeline(given.admin_socket)
    if found is not None and given.svg is not None:
        from luod.ctl import picture
        from luod.ctl.files import write

        write(given.svg, picture.svg(found).encode())
    if output.json:
        output.object({"timeline": found})
    elif found is None:
        output.line("no update yet")
    else:
        for line in timeline.lines(found):
            output.line(line)
    return Exit.DONE
