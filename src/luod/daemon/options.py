"""The options of `luod` as data, and their reader for a plain command line, which is most of them.

argparse costs a tenth of luod's start, so `luod.daemon.command_line`, which has the parser, is imported only for what
`plain` leaves to it: help, verbs, mistakes, and options that are converted. A test compares the two.
"""

from __future__ import annotations

from collections.abc import Sequence

from luod.daemon.log import LEVELS
from luod.frozen import frozen
from luod.ipc.names import ADMIN_SOCKET, SESSIONS_SOCKET
from luod.static import Final

_PLAIN: Final = ("socket", "admin_socket", "state_directory", "log_level", "config")


@frozen
class Options:
    """The options of the supervisor and of serve. `config` None: the default file, which may be missing."""

    socket: str = SESSIONS_SOCKET
    admin_socket: str = ADMIN_SOCKET
    state_directory: str = "/var/lib/luod"
    log_level: str = "info"
    end_stuck_after: float = 10.0
    config: str | None = None


def plain(words: Sequence[str]) -> Options | None:
    """Returns the options of a command line of `--NAME VALUE` and `--NAME=VALUE`; None if the parser must read it."""
    given: dict[str, str] = {}
    rest = iter(words)
    for word in rest:
        name, equals, value = word.partition("=")
        member = name.removeprefix("--").replace("-", "_")
        if not equals:
            value = next(rest, "-")
        known = member in _PLAIN and member not in given and name == "--" + member.replace("_", "-")
        if not known or (value.startswith("-") and not equals):
            return None
        given[member] = value
    if given.get("log_level", LEVELS[0]) not in LEVELS:
        return None
    return Options(**given)  # type: ignore[arg-type]  # no member of _PLAIN is a number
