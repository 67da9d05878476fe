"""luod's state as a plugin of Nagios and its relatives reports it: one line, an exit status and performance data."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

from luod.ctl.output import counted, escaped
from luod.version import __version__

if TYPE_CHECKING:
    from collections.abc import Iterator

    from luod.ipc.types.admin import Status


class Level(enum.IntEnum):
    """The exit statuses of a plugin."""

    OK = 0
    WARNING = 1
    CRITICAL = 2
    UNKNOWN = 3


def judge(status: Status) -> tuple[Level, str]:
    """Returns the level and the line. The worst reason is the first on the line."""
    reasons = sorted(_reasons(status), key=lambda reason: -reason[0])
    level = reasons[0][0] if reasons else Level.OK
    told = "; ".join(text for _, text in reasons) or f"{escaped(status.state)}, {counted(status.sessions, 'session')}"
    return level, f"{line(level, told)} | {_performance(status)}"


def line(level: Level, text: str) -> str:
    """Returns the line without performance data. A bar would begin these."""
    return f"LUOD {level.name} - {text.replace('|', '/')}"


def _reasons(status: Status) -> Iterator[tuple[Level, str]]:
    if status.state == "broken":
        yield Level.CRITICAL, "broken: this kernel could not take over what was preserved"
    if status.torn:
        yield Level.CRITICAL, f"{counted(status.torn, 'torn session')}: their guests are lost"
    if status.stuck:
        yield Level.CRITICAL, f"{counted(len(status.stuck), 'session')} that the reaper could not discard"
    for problem in (*status.state_directory, *status.registry, *status.fd_store, *status.undo):
        yield Level.CRITICAL, f"{escaped(problem.path)}: {escaped(problem.what)}".removeprefix(": ")
    if status.policy_error is not None:
        yield Level.CRITICAL, f"the policy is not in force: {escaped(status.policy_error)}"
    if waiting := status.waiting + status.retrieved:
        left = status.restore_seconds_left
        deadline = "" if left is None else f", discarded in {left:.0f} s"
        yield Level.WARNING, f"{counted(waiting, 'incoming session')} not restored yet{deadline}"
    if status.held_files:
        yield Level.WARNING, f"{counted(status.held_files, 'stashed file')}, which an update loses"
    if status.version != __version__:
        yield Level.WARNING, f"luod {escaped(status.version)} runs and {__version__} is installed: restart it"


def _performance(status: Status) -> str:
    values = {
        "sessions": status.sessions,
        "participants": status.participants,
        "waiting": status.waiting,
        "retrieved": status.retrieved,
        "torn": status.torn,
    }
    return " ".join(f"{name}={value}" for name, value in values.items())
