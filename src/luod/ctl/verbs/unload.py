"""`luoctl unload`"""

from __future__ import annotations

from argparse import Namespace

from luod.arguments import Parser
from luod.ctl.exits import Exit
from luod.ctl.output import Output

SUMMARY = "unload the next kernel"
DESCRIPTION = (
    "Unloads the kernel that `luoctl load` loaded, so that a reboot starts the machine by its firmware. Nothing is "
    "changed if none is loaded."
)


def arguments(parser: Parser) -> None: ...


def run(given: Namespace, output: Output) -> Exit:
    from luod.ctl import admin

    changed = admin.unload_kernel(given.admin_socket)
    if output.json:
        output.object({"changed": changed})
    else:
        output.line("unloaded" if changed else "nothing to do: no kernel is loaded")
    return Exit.DONE
