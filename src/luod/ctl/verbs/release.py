"""`luoctl release`"""

from __future__ import annotations

from argparse import Namespace

from luod.arguments import Parser
from luod.ctl import options
from luod.ctl.exits import Exit
from luod.ctl.output import Output

SUMMARY = "release sessions of a VMM that will not come back"
DESCRIPTION = (
    "Releases sessions without finishing them: outgoing sessions of a VMM that will not come back, or incoming ones "
    "without running the reaper. What only luod has open is lost."
)


def arguments(parser: Parser) -> None:
    options.workloads(parser)
    which = parser.add_mutually_exclusive_group()
    for direction in ("outgoing", "incoming"):
        which.add_argument(
            f"--{direction}",
            dest="direction",
            action="store_const",
            const=direction,
            help=f"only the {direction} sessions of the workload",
        )
    parser.add_argument("--force", action="store_true", help="even if a running process may still use the session")


def run(given: Namespace, output: Output) -> Exit:
    from luod.ctl import workloads
    from luod.ipc.client import sessions
    from luod.ipc.client.connection import TIMEOUT, perform
    from luod.ipc.names import SESSIONS_SOCKET

    path = given.socket or SESSIONS_SOCKET

    def give_up(name: str) -> str:
        answer = perform(sessions.give_up(name, given.direction, force=given.force), path, TIMEOUT)
        report = f"released {', '.join(answer.released)}"
        if answer.open:
            report += (
                f"; another process has {', '.join(answer.open)} open: terminate it, or the next kexec preserves it"
            )
        return report

    return workloads.each(given.session, give_up, output)
