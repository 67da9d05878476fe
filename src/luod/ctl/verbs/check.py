"""`luoctl check`"""

from __future__ import annotations

from argparse import Namespace

from luod.arguments import Parser
from luod.ctl import options
from luod.ctl.exits import Exit
from luod.ctl.output import Output, escaped
from luod.decode import encode

SUMMARY = "check whether an update would lose state"
DESCRIPTION = (
    "Checks an update into the given kernel, or into the loaded one, and prints its findings: refusals, which "
    "`luoctl update` does not accept either, and warnings. Nothing is changed."
)


def arguments(parser: Parser) -> None:
    options.image(parser, required=False)
    options.way(parser)


def run(given: Namespace, output: Output) -> Exit:
    from luod.ctl import admin, findings, next_kernel

    with next_kernel.given(given) as image:
        checked = admin.check(given.admin_socket, image, way=given.way)
    if output.json:
        output.object(encode(checked))
    else:
        findings.show(output, checked.findings)
        kernel = "the next kernel" if checked.release is None else f"Linux {escaped(checked.release)}"
        runs = ", which runs already" if checked.current else ""
        output.line(f"{'update refused' if checked.refused else 'no refusals'}: {kernel}{runs}")
    return Exit.REFUSED if checked.refused else Exit.DONE
