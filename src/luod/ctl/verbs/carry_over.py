"""`luoctl carry-over`"""

from __future__ import annotations

from argparse import Namespace

from luod.arguments import Parser
from luod.ctl import options
from luod.ctl.exits import Exit
from luod.ctl.output import Output

SUMMARY = "preserve unclaimed incoming sessions again for the next kexec"
DESCRIPTION = (
    "Turns incoming sessions into outgoing ones, so that the next update preserves them again: the way back from a "
    "kernel that does not work. Their owners can restore them there, and no longer here."
)


def arguments(parser: Parser) -> None:
    options.workloads(parser, optional=True)
    parser.add_argument("--all", action="store_true", help="all incoming sessions that wait in the kernel")


def run(given: Namespace, output: Output) -> Exit:
    from luod.ctl import admin, workloads

    if not (given.session or given.all):
        given.parser.error("a NAME or --all is required")
    names = [*given.session, *(_unclaimed(given.socket) if given.all else [])]
    if not names and not output.json:
        output.line("no incoming session is waiting")
    return workloads.each(names, lambda name: admin.carry_over(given.admin_socket, name), output)


def _unclaimed(socket: str | None) -> list[str]:
    from luod.client import Client

    states = ("waiting", "carrying_over")
    return [s.name for s in Client(socket).sessions() if s.direction == "incoming" and s.state in states]
