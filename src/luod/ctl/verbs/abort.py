"""`luoctl abort`"""

from __future__ import annotations

from argparse import Namespace

from luod.arguments import Parser
from luod.ctl.exits import Exit
from luod.ctl.output import Output

SUMMARY = "cancel the update that is running"
DESCRIPTION = "Cancels the update that is running. All participants resume, and nothing is lost."


def arguments(parser: Parser) -> None: ...


def run(given: Namespace, output: Output) -> Exit:
    from luod.ctl import admin

    admin.abort(given.admin_socket)
    if output.json:
        output.object({"aborted": True})
    else:
        output.line("update cancelled; participants resume")
    return Exit.DONE
