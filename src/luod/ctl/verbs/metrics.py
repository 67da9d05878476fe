"""`luoctl metrics`"""

from __future__ import annotations

from argparse import Namespace

from luod.arguments import Parser
from luod.ctl.exits import Exit
from luod.ctl.output import Output

SUMMARY = "print metrics in Prometheus' text format"
DESCRIPTION = "Prints metrics of luod and of the last update in Prometheus' text format."


def arguments(parser: Parser) -> None:
    parser.add_argument(
        "--output", metavar="FILE", help="write to FILE: a regular file is replaced as a whole, a device or pipe is not"
    )


def run(given: Namespace, output: Output) -> Exit:
    """Prints the metrics. If luod cannot be reached, prints luod_up 0 and raises DaemonUnreachable."""
    from luod.ctl import admin
    from luod.ctl.files import write
    from luod.ctl.metrics import text
    from luod.errors import BadInput, DaemonUnreachable

    if output.json:
        raise BadInput(
            "metrics cannot be printed as JSON", hint="use `luoctl --json status` or `luoctl --json timeline`"
        )
    unreachable = None
    try:
        found = text(admin.status(given.admin_socket), admin.timeline(given.admin_socket))
    except DaemonUnreachable as error:
        unreachable = error
        found = text(None, None)
    if given.output is None:
        for line in found.decode().splitlines():
            output.line(line)
    else:
        write(given.output, found)
    if unreachable is not None:
        raise unreachable
    return Exit.DONE
