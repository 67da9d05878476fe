"""The command line of luod: its parser, of which help, completion and the reference are made, and its verbs.

`luod` without a verb is the supervisor. `luod check-config` reads a policy file. `luod.daemon.main` runs both.
"""

from __future__ import annotations

import argparse

from luod.arguments import Parser, seconds
from luod.daemon.log import LEVELS
from luod.daemon.options import Options
from luod.errors import PolicyError
from luod.version import __version__


def parser() -> Parser:
    """Returns the parser. Its namespace has `verb`, None for the supervisor."""
    default = Options()
    top = Parser(
        prog="luod",
        description="Holds live-update sessions for programs and updates the kernel with them. Runs in the foreground; "
        "needs root and /dev/liveupdate. SIGHUP reads the policy again.",
        epilog="exit status: 0 stopped, 1 failed, 2 usage",
    )
    top.add_argument("--version", action="version", version=f"luod {__version__}", help="print the version")
    top.add_argument(
        "--socket", default=default.socket, metavar="PATH", help="the socket for programs (default: %(default)s)"
    )
    top.add_argument(
        "--admin-socket",
        default=default.admin_socket,
        metavar="PATH",
        help="the socket for operators (default: %(default)s)",
    )
    top.add_argument(
        "--state-directory",
        default=default.state_directory,
        metavar="DIR",
        help="the directory of luod's registry (default: %(default)s)",
    )
    top.add_argument(
        "--log-level",
        default=default.log_level,
        choices=LEVELS,
        help="the least severe messages to log (default: %(default)s)",
    )
    top.add_argument(
        "--end-stuck-after",
        type=seconds,
        default=default.end_stuck_after,
        metavar="SECONDS",
        help="time before luod kills processes that block reboot(2) in a session ioctl (default: %(default)s)",
    )
    top.add_argument("--config", metavar="FILE", help="the policy file (default: /etc/luod/luod.toml, if it exists)")
    verbs = top.add_subparsers(dest="verb", metavar="VERB", title="verbs")
    check: Parser = verbs.add_parser(
        "check-config", help="check a policy file", description="Checks a policy file. Nothing is changed."
    )
    check.add_argument("file", nargs="?", metavar="FILE", help="the file (default: /etc/luod/luod.toml)")
    top.verbs["check-config"] = check
    return top


def options(given: argparse.Namespace) -> Options:
    """Returns the options of the supervisor in what the parser read."""
    return Options(
        given.socket,
        given.admin_socket,
        given.state_directory,
        given.log_level,
        given.end_stuck_after,
        given.config,
    )


def check_config(name: str | None) -> list[PolicyError]:
    """Runs `luod check-config`, and returns the mistakes. Raises PolicyError for a file that cannot be read, or is not
    TOML.
    """
    from luod.daemon.policy import check, file

    path = file.DEFAULT_PATH if name is None else name
    try:
        rules, mistakes = check.mistakes(path)
    except FileNotFoundError:
        raise PolicyError(path, "", "does not exist", hint="without it luod uses its defaults") from None
    if not mistakes:
        print(f"{path}: valid, {rules} {'rule' if rules == 1 else 'rules'}")
    return mistakes
