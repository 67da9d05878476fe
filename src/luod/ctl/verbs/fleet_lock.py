"""`luoctl fleet-lock`: takes or returns a slot of a lock server. It does not need luod."""

from __future__ import annotations

import time
from argparse import Namespace
from typing import Final

from luod.arguments import Parser, seconds
from luod.ctl.exits import Exit
from luod.ctl.output import Output, escaped

SUMMARY = "take or return a lock that limits how many hosts update at a time"
DESCRIPTION = (
    "Speaks the FleetLock protocol with a lock server. take: exit status 4 if the server refuses. give: returns the "
    "slot, also one that was never taken. Both can be repeated. The policy can run them as hooks around an update."
)
_PERIOD: Final = 5.0
"""Seconds between two requests with --wait."""


def arguments(parser: Parser) -> None:
    parser.add_argument("step", choices=("take", "give"), help="take a slot before an update, or give it back")
    parser.add_argument("--url", required=True, metavar="URL", help="the lock server, such as https://lock.example.org")
    parser.add_argument("--group", default="default", metavar="NAME", help="the group of hosts (default: default)")
    parser.add_argument("--id", metavar="ID", help="this host's id (default: made from /etc/machine-id)")
    parser.add_argument(
        "--wait",
        type=seconds,
        metavar="SECONDS",
        help="repeat the request until the server agrees, at most for this time (exit status 8 after it)",
    )
    parser.add_argument(
        "--request-timeout",
        type=seconds,
        default=10.0,
        metavar="SECONDS",
        help="the time for one request (default: 10)",
    )


def run(given: Namespace, output: Output) -> Exit:
    from luod.ctl.fleet_lock import FleetLock, host_id
    from luod.errors import FleetLockError

    id = host_id() if given.id is None else given.id
    lock = FleetLock(given.url, group=given.group, id=id, timeout=given.request_timeout)
    until = None if given.wait is None else time.monotonic() + given.wait
    while True:
        try:
            lock.ask("pre-reboot" if given.step == "take" else "steady-state")
            break
        except FleetLockError as error:
            if until is None:
                raise
            left = until - time.monotonic()
            if left <= 0:
                output.failure("TimedOut", f"after {given.wait:g} s: {error}", error.hint)
                return Exit.TIMED_OUT
        time.sleep(min(_PERIOD, left))
    done = "taken" if given.step == "take" else "given"
    if output.json:
        output.object({"lock": done, "id": id, "group": given.group})
    else:
        output.line(f"lock {done}, as {escaped(id)} of group {escaped(given.group)}")
    return Exit.DONE
