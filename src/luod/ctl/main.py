"""The `luoctl` command: reads the command line, runs a command, turns what went wrong into a message and a status.

Start-up counts, so what a command needs is imported when it is run.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from luod.ctl.exits import Exit, kind, status
from luod.ctl.output import Output
from luod.errors import LuodError
from luod.version import __version__

EPILOG = """\
exit status: 0 done, 1 failed, 2 usage, 3 luod cannot be reached, 4 refused, 5 cancelled, 6 another update is running"""


MOST_SECONDS = 86400.0


class _Usage(Exception):
    """The command line is wrong; `usage` says how it goes."""

    def __init__(self, message: str, usage: str) -> None:
        super().__init__(message)
        self.usage = usage


class _Parser(argparse.ArgumentParser):
    """Raises _Usage where argparse would print and exit. Abbreviated options are not taken: scripts would keep them."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{"allow_abbrev": False, **settings})

    def error(self, message: str) -> NoReturn:
        raise _Usage(message, " ".join(self.format_usage().split()))

    def _print_message(self, message: str, file: Any = None) -> None:
        """Raises OSError; that of argparse passes over it since Python 3.12."""
        if message:
            (file or sys.stderr).write(message)


def parser() -> argparse.ArgumentParser:
    """luoctl's command line; its manual page and completions are made from this."""
    top = _Parser(prog="luoctl", description="Ask luod, and have it update the kernel.", epilog=EPILOG)
    top.add_argument("--version", action="version", version=f"luoctl {__version__}")
    common = _common(top)
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    commands.add_parser("status", parents=[common], help="what luod is doing, and what it holds")
    commands.add_parser("list", parents=[common], help="your sessions; root is shown everybody's")
    show = commands.add_parser("show", parents=[common], help="what a session carries")
    show.add_argument("session", metavar="SESSION", help="its name")
    load = commands.add_parser(
        "load", parents=[common], help="load the next kernel", description="Load the kernel that `update` jumps into."
    )
    _image(load, required=True)
    _ignore_finding(load)
    check = commands.add_parser(
        "check",
        parents=[common],
        help="what an update would lose",
        description="Say what stands in the way of an update, or may spoil it: into the kernel that is given, or else "
        "into the one that is loaded. Nothing is changed. `update` makes the same checks.",
    )
    _image(check, required=False)
    update = commands.add_parser(
        "update",
        parents=[common],
        help="jump into the next kernel",
        description="Jump into the next kernel, the one that is given or else the one that is loaded, with every "
        "session kept, once every workload that takes part is ready. This machine restarts. ^C cancels, as "
        "`luoctl abort` does.",
    )
    _image(update, required=False)
    update.add_argument(
        "--deadline",
        type=_seconds,
        metavar="SECONDS",
        help="how long workloads may take in each phase, on top of the time their bytes take (30)",
    )
    update.add_argument("--dry-run", action="store_true", help="say who would be asked and what would be lost, no more")
    update.add_argument(
        "--skip-unready",
        action="store_true",
        help="leave behind those who are late or gone: their sessions come back torn",
    )
    _ignore_finding(update)
    commands.add_parser("abort", parents=[common], help="cancel the update that is under way: everybody resumes")
    discard = commands.add_parser(
        "discard",
        parents=[common],
        help="discard abandoned incoming sessions",
        description="Have the reaper free what incoming sessions hold. Nothing can be resumed from them afterwards.",
    )
    discard.add_argument("session", nargs="+", metavar="NAME", help="a workload: its sessions NAME and NAME#GENERATION")
    discard.add_argument("--force", action="store_true", help="even if a running process may still use it")
    release = commands.add_parser(
        "release",
        parents=[common],
        help="drop sessions whose VMM is gone",
        description="Release the sessions NAME and NAME#GENERATION as given up. What only luod has open is lost. "
        "For outgoing sessions of a VMM that will not come back, and for incoming ones without running the reaper.",
    )
    release.add_argument("session", nargs="+", metavar="NAME", help="a workload: its sessions NAME and NAME#GENERATION")
    which = release.add_mutually_exclusive_group()
    which.add_argument(
        "--outgoing", dest="direction", action="store_const", const="outgoing", help="those for the next update"
    )
    which.add_argument(
        "--incoming", dest="direction", action="store_const", const="incoming", help="those the last update carried"
    )
    release.add_argument("--force", action="store_true", help="even if a running process may still use them")
    stop = commands.add_parser(
        "stop",
        parents=[common],
        help="stop luod",
        description="Stop luod, unless sessions or files would be lost because no other process has them open. "
        "Sessions that wait in the kernel wait on.",
    )
    stop.add_argument("--drop", action="store_true", help="stop it regardless, and lose them")
    timeline = commands.add_parser(
        "timeline",
        parents=[common],
        help="the last update: when each session was in which phase, and for how long its guest stood still",
    )
    timeline.add_argument("--svg", metavar="FILE", help="draw it into this file, too, as an SVG picture")
    metrics = commands.add_parser("metrics", parents=[common], help="what luod does, as Prometheus reads it")
    metrics.add_argument(
        "--output",
        metavar="FILE",
        help="into this file, which is replaced as a whole; a device or pipe is written to",
    )
    carry_over = commands.add_parser(
        "carry-over",
        parents=[common],
        help="preserve unclaimed incoming sessions again for the next kexec",
        description="Make incoming sessions outgoing ones, so that the next update carries them on: the way back from "
        "a kernel that turned out bad. Their owners can retrieve them there, and no longer here.",
    )
    carry_over.add_argument(
        "session", nargs="*", metavar="NAME", help="a workload: its sessions NAME and NAME#GENERATION"
    )
    carry_over.add_argument("--all", action="store_true", help="all that wait in the kernel")
    return top


def _ignore_finding(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--ignore-finding",
        metavar="NAME",
        action="append",
        default=[],
        help="go on although `check` found this, and lose what it says; repeatable",
    )


def _image(command: argparse.ArgumentParser, *, required: bool) -> None:
    command.add_argument(
        "--kernel",
        required=required,
        metavar="FILE",
        help="its image, such as /boot/vmlinuz-7.3.4, or a unified kernel image (UKI) with all three in it",
    )
    command.add_argument(
        "--initrd",
        action="append",
        metavar="FILE",
        help="its initial RAM disk; may be repeated: the files are concatenated in this order",
    )
    command.add_argument(
        "--append-cmdline",
        action="append",
        metavar="TEXT",
        help="add TEXT to the running kernel's command line; may be repeated. Of several settings of one parameter "
        "the last one counts",
    )
    command.add_argument("--cmdline", metavar="TEXT", help="the whole command line, in place of the running kernel's")
    command.add_argument(
        "--reuse-cmdline", action="store_true", help="use the running kernel's command line (the default)"
    )


def _seconds(word: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 < (seconds := float(word)) <= MOST_SECONDS:
            return seconds
    raise argparse.ArgumentTypeError(f"{word!r} is no number of seconds, more than 0 and at most {MOST_SECONDS:.0f}")


def _common(top: _Parser) -> _Parser:
    """The options that may stand before the command as well as behind it."""
    behind = _Parser(add_help=False, argument_default=argparse.SUPPRESS)
    for target in (top, behind):
        target.add_argument("--socket", metavar="PATH", help="luod's socket (default: /run/luod/luod.sock)")
        target.add_argument("--admin-socket", metavar="PATH", help="its admin socket (default: /run/luod/admin.sock)")
        target.add_argument("--json", action="store_true", help="print JSON, one object a line")
    return behind


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs luoctl with `arguments`, those of the process by default; returns its exit status."""
    code: int | None = None
    try:
        code = _main(sys.argv[1:] if arguments is None else arguments)
        if sys.stdout is not None:
            sys.stdout.flush()
        return code
    except OSError as error:
        # Whoever read our output has had enough, or the disk it goes to is full.
        if not isinstance(error, BrokenPipeError) and code in (None, Exit.DONE):
            print(f"luoctl: standard output: {error.strerror}", file=sys.stderr)
        # It would be tried once more at exit, and Python would complain, with a status of its own.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.FAILED


def _main(arguments: Sequence[str]) -> int:
    """OSError: standard output cannot be written."""
    output = Output(json="--json" in arguments)
    try:
        given = parser().parse_args(arguments)
        output = Output(json=given.json)
        if given.command == "carry-over" and not (given.session or given.all):
            raise _Usage("which sessions?", "usage: luoctl carry-over SESSION... | --all")
        if given.admin_socket is None and os.geteuid() != 0:
            # There luod answers those who may update, and are not root.
            given.admin_socket = given.socket
        return _run(given, output)
    except _Usage as error:
        output.failure("Usage", str(error), error.usage)
        return Exit.USAGE
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    except SystemExit as end:  # argparse, after --help and --version
        return int(end.code or 0)


def _run(given: argparse.Namespace, output: Output) -> Exit:
    from luod.ctl import commands, reports

    run = {
        "status": commands.status,
        "list": commands.list_,
        "show": commands.show,
        "load": commands.load,
        "check": commands.check,
        "update": commands.update,
        "abort": commands.abort,
        "discard": commands.discard,
        "release": commands.release,
        "stop": commands.stop,
        "timeline": reports.timeline,
        "metrics": reports.metrics,
        "carry-over": commands.carry_over,
    }[given.command]
    try:
        return run(given, output)
    except BrokenPipeError:
        raise
    except LuodError as error:
        output.failure(kind(error), str(error), error.hint)
        return status(error)
    except OSError as error:
        where = "" if error.filename is None else f"{error.filename or repr('')}: "
        hint = "is the path right, and may you read it?" if where else ""
        output.failure(type(error).__name__, f"{where}{error.strerror or error}", hint)
        return Exit.FAILED


if __name__ == "__main__":
    sys.exit(main())
