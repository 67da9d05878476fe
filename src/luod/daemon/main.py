"""The command line of luod: `luod keep`, which an operator or systemd starts, `luod serve`, which keep starts, and
`luod check-config`.

Only the options, and errors as sentences; the programs are `luod.daemon.supervisor.supervisor` and `luod.daemon.serve`,
imported when asked for, so that keep does not pay for what serve needs.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from luod.daemon.log import LEVELS, to_journal
from luod.daemon.supervisor import listen_fds
from luod.errors import LuodError, PolicyError
from luod.ipc.names import ADMIN_SOCKET, SESSIONS_SOCKET
from luod.version import __version__

STATE_DIRECTORY: Final = "/var/lib/luod"
STUCK_SECONDS: Final = 10.0


def _seconds(word: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 < (seconds := float(word)) < float("inf"):
            return seconds
    raise argparse.ArgumentTypeError(f"{word!r} is no number of seconds, more than 0")


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="luod",
        description="Keeps live-update sessions for programs, and jumps into the next kernel with all of them.",
    )
    parser.add_argument("--version", action="version", version=f"luod {__version__}")
    programs = parser.add_subparsers(dest="program", required=True, metavar="PROGRAM")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--state-directory", default=STATE_DIRECTORY, metavar="DIR", help="where the registry's file is (%(default)s)"
    )
    common.add_argument("--log-level", default="info", choices=LEVELS, help="what goes to stderr (%(default)s)")
    common.add_argument(
        "--end-stuck-after",
        type=_seconds,
        default=STUCK_SECONDS,
        metavar="SECONDS",
        help="how long reboot(2) may take before luod kills who holds it in an ioctl (%(default)s)",
    )
    common.add_argument(
        "--config", metavar="FILE", help="the policy (/etc/luod/luod.toml, where there is one); SIGHUP reads it again"
    )
    keep = programs.add_parser(
        "keep",
        parents=[common],
        help="run luod in the foreground",
        description="Holds the sessions and runs `luod serve`, again and again. Needs root and /dev/liveupdate.",
    )
    keep.add_argument("--socket", default=SESSIONS_SOCKET, metavar="PATH", help="where programs connect (%(default)s)")
    keep.add_argument(
        "--admin-socket", default=ADMIN_SOCKET, metavar="PATH", help="where the operator connects (%(default)s)"
    )
    programs.add_parser(
        "serve",
        parents=[common],
        help="answer clients; started by `luod keep`, never by hand",
        description="Answers clients. Gets its sockets and the sessions from `luod keep`, which starts it.",
    )
    check = programs.add_parser(
        "check-config", help="say what is wrong with a policy file", description="Reads a policy, and changes nothing."
    )
    check.add_argument("file", nargs="?", metavar="FILE", help="the policy (/etc/luod/luod.toml)")
    return parser


def check_config(name: str | None) -> int:
    """`luod check-config`. PolicyError says what is wrong."""
    from luod.daemon.policy import commands, file

    path = file.DEFAULT_PATH if name is None else Path(name)
    try:
        settings = file.parse(file.read(path), path)
        commands.require(settings, path)
    except FileNotFoundError:
        raise PolicyError(str(path), "", "is not there", hint="without it luod goes by its defaults") from None
    print(f"{path}: good, {len(settings.rules)} rules")
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    listen_fds.open_standard()
    options = parser().parse_args(arguments)
    try:
        if options.program == "check-config":
            return check_config(options.file)
        if options.program == "keep":
            from luod.daemon.supervisor import supervisor

            return supervisor.run(
                options.socket,
                options.admin_socket,
                options.state_directory,
                options.log_level,
                options.end_stuck_after,
                options.config,
            )
        from luod.daemon import serve

        return serve.run(options.state_directory, options.log_level, options.end_stuck_after, options.config)
    except LuodError as error:
        hint = f" ({error.hint})" if error.hint else ""
        print(f"{'<3>' if to_journal() else ''}luod: {error}{hint}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
