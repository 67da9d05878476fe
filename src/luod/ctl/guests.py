"""The parts that `luoctl qemu` and `luoctl libvirt` share: their parsers, and the guests of the last kernel."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING, Any

from luod.arguments import Parser
from luod.ctl.output import escaped

if TYPE_CHECKING:
    from collections.abc import Callable

    from luod.aio import AsyncClient


def action(parser: Parser, actions: Any, name: str, summary: str) -> Parser:
    """Adds an action to the verb of `parser`, and returns its parser."""
    added: Parser = actions.add_parser(name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.")
    parser.verbs[name] = added
    return added


def add_restored(restore: Parser, noun: str) -> None:
    """Adds the arguments that say what to restore. `noun` is the word for one, such as guest."""
    which = restore.add_mutually_exclusive_group(required=True)
    which.add_argument("name", nargs="?", metavar="NAME", help=f"the {noun}")
    which.add_argument("--all", action="store_true", help=f"all {noun}s of this user, each by a luoctl of its own")
    restore.add_argument(
        "--if-guest", action="store_true", help="do nothing if the session is of another program, as --all does"
    )


async def restore_all(client: AsyncClient, agent: str) -> int:
    """Runs this command again for each workload that may be a guest of `agent`, with its name in place of --all."""
    from luod.agents.guests import several

    command = [sys.executable, *(word for word in sys.orig_argv[1:] if word != "--all")]
    names = await several.waiting(client, agent)
    return await several.run([[*command, name, "--if-guest"] for name in names])


def reporter(name: str) -> Callable[[str], None]:
    """Returns what prints a line about the guest `name`, to standard error: standard output may be QEMU's.

    A line that cannot be printed is lost: a full disk or a reader that is gone must not end the guest.
    """

    def report(text: str) -> None:
        with contextlib.suppress(OSError):
            print(f"luoctl: {escaped(f'{name}: {text}')}", file=sys.stderr, flush=True)

    return report
