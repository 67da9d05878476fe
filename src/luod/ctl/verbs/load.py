"""`luoctl load`"""

from __future__ import annotations

from argparse import Namespace

from luod.arguments import Parser
from luod.ctl import options
from luod.ctl.exits import Exit
from luod.ctl.output import Output, escaped

SUMMARY = "load the next kernel"
DESCRIPTION = "Loads the kernel that `luoctl update` executes."


def arguments(parser: Parser) -> None:
    options.image(parser, required=True)
    options.ignore_finding(parser)


def run(given: Namespace, output: Output) -> Exit:
    from luod.ctl import admin, next_kernel

    with next_kernel.given(given) as image:
        assert image is not None
        admin.load_kernel(given.admin_socket, image, ignore_findings=given.ignore_finding)
    if output.json:
        initrds = given.initrd or []
        members = {"kernel": given.kernel, "initrd": initrds[0] if initrds else None, "initrds": initrds}
        output.object({**members, "command_line": image.command_line})
    else:
        what = f"the kernel in {escaped(given.kernel)}" if image.unified else escaped(given.kernel)
        output.line(f"loaded {what}, command line: {escaped(image.command_line)}")
    return Exit.DONE
