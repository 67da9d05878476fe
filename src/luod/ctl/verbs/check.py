"""`luoctl check`"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator
from typing import TYPE_CHECKING

from luod.arguments import Parser
from luod.ctl import options
from luod.ctl.exits import Exit
from luod.ctl.output import Output, counted, escaped, size
from luod.decode import encode

if TYPE_CHECKING:
    from luod.ipc.types.admin import Checked

SUMMARY = "check whether an update would lose state"
DESCRIPTION = (
    "Checks an update into the given kernel, or into the loaded one, and prints its findings: refusals, which "
    "`luoctl update` does not accept either, and warnings. Nothing is changed."
)


def arguments(parser: Parser) -> None:
    options.image(parser, required=False)
    options.way(parser)


def _plan(checked: Checked, carried: int) -> Iterator[str]:
    """Yields what an update would carry, `carried` bytes in all, in lines of text."""
    from luod.ctl.timeline import duration

    sessions, participants = len(checked.sessions), len(checked.participants)
    if sessions or participants:
        who = counted(participants, "participant")
        yield f"an update carries {counted(sessions, 'session')} of {who}, {size(carried)}"
    for name in checked.torn:
        yield f"session {escaped(name)} has no participant, and would be torn"
    if checked.blackout is not None:
        told = checked.blackout
        times = f"{duration(told.expected)}, at most {duration(told.longest)}"
        yield f"blackout of the last {counted(told.updates, 'update')}: {times}"


def run(given: Namespace, output: Output) -> Exit:
    from luod.ctl import admin, findings, next_kernel

    with next_kernel.given(given) as image:
        checked = admin.check(given.admin_socket, image, way=given.way)
    carried = sum(each.bytes for each in checked.participants)
    if output.json:
        output.object({**encode(checked), "bytes": carried})
    else:
        findings.show(output, checked.findings)
        for line in _plan(checked, carried):
            output.line(line)
    kernel = "the next kernel" if checked.release is None else f"Linux {escaped(checked.release)}"
    runs = ", which runs already" if checked.current else ""
    refusals = ", ".join(escaped(each.name) for each in checked.findings if each.refuses)
    why = f" ({refusals})" if output.json and refusals else ""
    output.verdict(
        f"{'update refused' if checked.refused else 'no refusals'}: {kernel}{runs}{why}", good=not checked.refused
    )
    return Exit.REFUSED if checked.refused else Exit.DONE
