"""`luoctl discard`"""

from __future__ import annotations

from argparse import Namespace

from luod.arguments import Parser
from luod.ctl import options
from luod.ctl.exits import Exit
from luod.ctl.output import Output

SUMMARY = "discard abandoned incoming sessions"
DESCRIPTION = "Runs the reaper on incoming sessions, which frees what they hold. They cannot be restored afterwards."


def arguments(parser: Parser) -> None:
    options.workloads(parser)
    parser.add_argument("--force", action="store_true", help="even if a running process may still use the session")


def run(given: Namespace, output: Output) -> Exit:
    from luod.ctl import admin, workloads

    return workloads.each(
        given.session, lambda name: admin.discard(given.admin_socket, name, force=given.force), output
    )
