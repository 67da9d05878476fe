"""`luoctl libvirt`: runs and restores domains. The agent is `luod.agents.libvirt`; it runs in this process."""

from __future__ import annotations

from argparse import Namespace

from luod.arguments import Parser
from luod.ctl import guests
from luod.ctl.output import Output

SUMMARY = "run domains of libvirt that live through kernel updates"
DESCRIPTION = (
    "Starts a domain that libvirt has defined so that it lives through kernel updates, and continues it in the next "
    "kernel. It stays in the foreground until the domain ends. A signal ends it, and leaves the domain running."
)


def arguments(parser: Parser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION", title="actions")
    run = guests.action(parser, actions, "run", "start a domain, or take over one whose luoctl was killed")
    run.add_argument("name", metavar="DOMAIN", help="the domain, and its session")
    run.add_argument(
        "--lazy-memory", action="store_true", help="leave the allocation of the guest's memory to its first use"
    )
    restore = guests.action(parser, actions, "restore", "continue a domain where the last kernel left it")
    guests.add_restored(restore, "domain")
    start = guests.action(parser, actions, "start", "continue a domain where the last kernel left it, or else start it")
    start.add_argument("name", metavar="DOMAIN", help="the domain, and its session")


def run(given: Namespace, output: Output) -> int:
    import asyncio

    return asyncio.run(_act(given))


async def _act(given: Namespace) -> int:
    from luod.agents.libvirt import launch, record
    from luod.aio import AsyncClient

    async with AsyncClient(given.socket, patience=60.0) as client:
        if given.action == "restore" and given.all:
            return await guests.restore_all(client, record.AGENT)
        report = guests.reporter(given.name)
        match given.action:
            case "run":
                return await launch.run(client, given.name, report, populate=not given.lazy_memory)
            case "restore":
                return await launch.restore(client, given.name, report, if_guest=given.if_guest)
            case _:
                return await launch.start(client, given.name, report)
