"""The command line of luod: `luod` is the supervisor, which an operator or systemd starts; it starts `luod serve`.
`luod check-config` reads a policy file.

Only the options and the errors; the programs are `luod.daemon.supervisor.supervisor` and `luod.daemon.serve`, imported
when asked for, so that the supervisor does not pay for what serve needs.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from luod.arguments import Parser, UsageError, report, seconds
from luod.daemon.log import LEVELS, to_journal
from luod.daemon.supervisor import listen_fds
from luod.errors import LuodError, PolicyError
from luod.ipc.names import ADMIN_SOCKET, SESSIONS_SOCKET
from luod.version import __version__

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

STATE_DIRECTORY: Final = "/var/lib/luod"
STUCK_SECONDS: Final = 10.0


def parser() -> Parser:
    """Returns the parser. Its namespace has `verb`, None for the supervisor."""
    top = Parser(
        prog="luod",
        description="Holds live-update sessions for programs and updates the kernel with them. Runs in the foreground; "
        "needs root and /dev/liveupdate. SIGHUP reads the policy again.",
        epilog="exit status: 0 stopped, 1 failed, 2 usage",
    )
    top.add_argument("--version", action="version", version=f"luod {__version__}", help="print the version")
    top.add_argument(
        "--socket", default=SESSIONS_SOCKET, metavar="PATH", help="the socket for programs (default: %(default)s)"
    )
    top.add_argument(
        "--admin-socket", default=ADMIN_SOCKET, metavar="PATH", help="the socket for operators (default: %(default)s)"
    )
    verbs = top.add_subparsers(dest="verb", metavar="VERB", title="verbs")
    serve: Parser = verbs.add_parser(
        "serve", description="Answers clients. Started by the supervisor, which holds its fds."
    )
    for program in (top, serve):
        _common(program)
    check: Parser = verbs.add_parser(
        "check-config", help="check a policy file", description="Checks a policy file. Nothing is changed."
    )
    check.add_argument("file", nargs="?", metavar="FILE", help="the file (default: /etc/luod/luod.toml)")
    top.verbs.update({"serve": serve, "check-config": check})
    return top


def _common(program: Parser) -> None:
    """Adds the options that the supervisor passes on to serve."""
    program.add_argument(
        "--state-directory",
        default=STATE_DIRECTORY,
        metavar="DIR",
        help="the directory of luod's registry (default: %(default)s)",
    )
    program.add_argument(
        "--log-level", default="info", choices=LEVELS, help="the least severe messages to log (default: %(default)s)"
    )
    program.add_argument(
        "--end-stuck-after",
        type=seconds,
        default=STUCK_SECONDS,
        metavar="SECONDS",
        help="time before luod kills processes that block reboot(2) in a session ioctl (default: %(default)s)",
    )
    program.add_argument(
        "--config", metavar="FILE", help="the policy file (default: /etc/luod/luod.toml, if it exists)"
    )


def check_config(name: str | None) -> int:
    """Runs `luod check-config`, and returns its exit status. Raises PolicyError for a wrong file."""
    from luod.daemon.policy import commands, file

    path = file.DEFAULT_PATH if name is None else name
    try:
        settings = file.parse(file.read(path), path)
        commands.require(settings, path)
    except FileNotFoundError:
        raise PolicyError(path, "", "does not exist", hint="without it luod uses its defaults") from None
    print(f"{path}: valid, {len(settings.rules)} rules")
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs luod with `arguments`, those of the process by default; returns its exit status."""
    listen_fds.open_standard()
    prefix = "<3>" if to_journal() else ""
    try:
        return _run(sys.argv[1:] if arguments is None else arguments)
    except UsageError as error:
        report("luod", str(error), usage=error.usage, hint=error.hint, prefix=prefix)
        return 2
    except LuodError as error:
        report("luod", str(error), hint=error.hint, prefix=prefix)
        return 1


def _run(arguments: Sequence[str]) -> int:
    given = parser().parse(arguments)
    common = (given.state_directory, given.log_level, given.end_stuck_after, given.config)
    if given.verb == "check-config":
        return check_config(given.file)
    if given.verb == "serve":
        from luod.daemon import serve

        return serve.run(*common)
    from luod.daemon.supervisor import supervisor

    return supervisor.run(given.socket, given.admin_socket, *common)


if __name__ == "__main__":
    sys.exit(main())
