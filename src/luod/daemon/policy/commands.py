"""Checks the commands of a policy: whether they exist, can be run, and can be changed by root alone.

For `luod check-config`. A policy comes into force without this check, since a command may be installed later.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator

from luod.daemon import trust
from luod.daemon.policy.rules import Settings
from luod.static import TYPE_CHECKING

if TYPE_CHECKING:
    from luod.daemon.policy.file import Fault


def faults(settings: Settings) -> Iterator[Fault]:
    """Yields the commands that cannot be run or that others can change."""
    commands = {
        "reaper": settings.reaper,
        "hooks.before-update": settings.hooks.before_update,
        "hooks.after-update": settings.hooks.after_update,
    }
    for member, command in commands.items():
        if command:
            yield from ((f"{member}[0]", message, hint) for message, hint in _fault_of(command[0]))


def _fault_of(program: str) -> Iterator[tuple[str, str]]:
    try:
        mode = os.stat(program).st_mode
    except OSError as error:
        yield f"{program}: {error.strerror}", "install the command, or set another one"
        return
    if not stat.S_ISREG(mode):
        yield f"{program} is not a regular file", "set a program"
    elif not os.access(program, os.X_OK):
        yield f"{program} cannot be executed", f"chmod a+x {program}; check that its file system is not mounted noexec"
    elif fault := trust.fault(program):
        yield f"{fault}, and luod runs {program} as root", fault.remedy
