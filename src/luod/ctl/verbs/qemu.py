"""`luoctl qemu`: runs and restores guests of QEMU. The agent is `luod.agents.qemu`; it runs in this process."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING

from luod.arguments import Parser
from luod.ctl import guests
from luod.ctl.output import Output, escaped
from luod.errors import QemuRefusal

if TYPE_CHECKING:
    from luod.aio import AsyncClient

SUMMARY = "run guests of QEMU that live through kernel updates"
DESCRIPTION = (
    "Runs an unmodified QEMU whose guest lives through kernel updates, and continues the guest in the next kernel. It "
    "stays in the foreground until QEMU ends, and its exit status is QEMU's."
)


def arguments(parser: Parser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION", title="actions")
    run = guests.action(parser, actions, "run", "start a guest")
    run.add_argument("--name", required=True, metavar="NAME", help="the guest, and its session")
    run.add_argument(
        "--lazy-memory", action="store_true", help="leave the allocation of the guest's memory to its first use"
    )
    run.add_argument("command", nargs="+", metavar="COMMAND", help="after --: a QEMU and its arguments")
    restore = guests.action(parser, actions, "restore", "continue a guest where the last kernel left it")
    guests.add_restored(restore, "guest")
    restore.add_argument("--qemu", metavar="PATH", help="run it with another QEMU")
    restore.add_argument("--paused", action="store_true", help="leave it paused, to look at it")
    upgrade = guests.action(parser, actions, "upgrade", "replace the QEMU of a running guest, without a kexec")
    upgrade.add_argument("name", metavar="NAME", help="the guest")
    upgrade.add_argument("--qemu", metavar="PATH", required=True, help="the other QEMU")
    start = guests.action(parser, actions, "start", "continue a guest where the last kernel left it, or else start it")
    start.add_argument("name", metavar="NAME", help="the guest, and its session")
    start.add_argument(
        "--arguments",
        metavar="FILE",
        help="the file with a QEMU and its arguments, as in a shell (default: /etc/luod/qemu/NAME.args)",
    )


def run(given: Namespace, output: Output) -> int:
    import asyncio

    try:
        if given.action == "upgrade":
            return _upgrade(given, output)
        return asyncio.run(_act(given))
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "qemu":
            raise
        raise QemuRefusal(
            "the package qemu.qmp is missing", hint="apt install python3-qemu.qmp, or pip install 'luod[qemu]'"
        ) from None


def _upgrade(given: Namespace, output: Output) -> int:
    from luod.agents.qemu import control, programs
    from luod.decode import encode

    file = programs.file_of(given.qemu)
    done = control.upgrade(given.name, control.path(given.name, given.socket), file.path)
    if output.json:
        output.object({"name": given.name, **encode(done)})
    else:
        version, way = escaped(done.version), escaped(done.way)
        output.line(f"{escaped(given.name)} goes on with QEMU {version} ({way})")
    return 0


async def _act(given: Namespace) -> int:
    from luod.agents.qemu import record
    from luod.aio import AsyncClient

    async with AsyncClient(given.socket, patience=60.0) as client:
        if given.action == "restore" and given.all:
            return await guests.restore_all(client, record.AGENT)
        return await _one(client, given)


async def _one(client: AsyncClient, given: Namespace) -> int:
    from luod.agents.qemu import arguments_file, launch

    name: str = given.name
    report = guests.reporter(name)
    match given.action:
        case "run":
            return await launch.run(client, name, given.command, report, populate=not given.lazy_memory)
        case "restore":
            how = {"program": given.qemu, "paused": given.paused, "if_guest": given.if_guest}
            return await launch.restore(client, name, report, **how)
        case _:
            command = arguments_file.read(given.arguments or arguments_file.path_of(name))
            return await launch.start(client, name, command, report)
