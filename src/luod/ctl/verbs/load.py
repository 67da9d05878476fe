"""`luoctl load`"""

from __future__ import annotations

from argparse import Namespace

from luod.arguments import Parser
from luod.ctl import options
from luod.ctl.exits import Exit
from luod.ctl.output import Output, escaped

SUMMARY = "load the next kernel"
DESCRIPTION = (
    "Loads the kernel that `luoctl update` executes. Nothing is changed if the same files are loaded with the same "
    "command line."
)


def arguments(parser: Parser) -> None:
    options.image(parser, required=True)
    options.ignore_finding(parser)


def run(given: Namespace, output: Output) -> Exit:
    from luod.ctl import admin, next_kernel

    with next_kernel.given(given) as image:
        assert image is not None
        changed = admin.load_kernel(given.admin_socket, image, ignore_findings=given.ignore_finding)
    if output.json:
        initrds = given.initrd or []
        members = {"kernel": given.kernel, "initrd": initrds[0] if initrds else None, "initrds": initrds}
        output.object({**members, "command_line": image.command_line, "changed": changed})
    else:
        what = f"the kernel in {escaped(given.kernel)}" if image.unified else escaped(given.kernel)
        done = "loaded" if changed else "nothing to do: luod has already loaded"
        output.line(f"{done} {what}, command line: {escaped(image.command_line)}")
    return Exit.DONE
