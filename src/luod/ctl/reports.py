"""What `luoctl timeline` and `luoctl metrics` do."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import asdict

from luod.ctl import admin
from luod.ctl import timeline as times
from luod.ctl.exits import Exit
from luod.ctl.files import write
from luod.ctl.output import Output
from luod.errors import BadInput, DaemonUnreachable


def timeline(arguments: Namespace, output: Output) -> Exit:
    """`luoctl timeline`"""
    told = times.ask(arguments.admin_socket)
    if told is not None and arguments.svg is not None:
        from luod.ctl import picture

        write(arguments.svg, picture.svg(told).encode())
    if output.json:
        output.object({"timeline": None if told is None else asdict(told)})
    elif told is None:
        output.line("there was no update yet")
    else:
        for line in times.lines(told):
            output.line(line)
    return Exit.DONE


def metrics(arguments: Namespace, output: Output) -> Exit:
    """`luoctl metrics`. Where luod cannot be reached that is told as a metric too, before it is an error."""
    if output.json:
        hint = "luoctl --json status and luoctl --json timeline tell the same"
        raise BadInput("metrics have a format of their own", hint=hint)
    from luod.ctl.metrics import text

    unreachable = None
    try:
        found = text(admin.status(arguments.admin_socket), times.ask(arguments.admin_socket))
    except DaemonUnreachable as error:
        unreachable = error
        found = text(None, None)
    if arguments.output is None:
        for line in found.decode().splitlines():
            output.line(line)
    else:
        write(arguments.output, found)
    if unreachable is not None:
        raise unreachable
    return Exit.DONE
