"""`luoctl stop`"""

from __future__ import annotations

from argparse import Namespace

from luod.arguments import Parser
from luod.ctl.exits import Exit
from luod.ctl.output import Output, escaped

SUMMARY = "stop luod"
DESCRIPTION = (
    "Stops luod, unless sessions or files would be lost because no other process has them open. Sessions that wait in "
    "the kernel stay there. A luod that systemd runs is stopped by systemctl."
)


def arguments(parser: Parser) -> None:
    parser.add_argument("--drop", action="store_true", help="stop even if sessions or files are lost")


def run(given: Namespace, output: Output) -> Exit:
    from luod.ctl import admin

    lost = admin.stop(given.admin_socket, drop=given.drop)
    if output.json:
        output.object({"stopped": True, "lost": [*lost]})
    else:
        for what in lost:
            output.line(f"lost: {escaped(what)}")
        output.line("luod is stopped")
    return Exit.DONE
