"""What a test needs of the host and may not find: then it is skipped by name, or fails where CI=true is set.

`luod.testing.plugin` lists at the end what was skipped.
"""

from __future__ import annotations

import os
import re
import shutil
from typing import Final, NoReturn

_SBIN: Final = "/usr/local/sbin:/usr/sbin:/sbin"
"""Debian leaves these out of a plain user's PATH."""
_TOOL: Final = "needs {tool}, of the Debian package {package}"
_TOOL_PATTERN: Final = re.compile(r"needs (?P<tool>\S+), of the Debian package (?P<package>\S+)$")
_HOST: Final = "cannot run on this host: "


def require_tool(tool: str, *, package: str) -> str:
    """The path of the program `tool`. Where it is missing the test is skipped; with CI=true it fails."""
    path = shutil.which(tool) or shutil.which(tool, path=_SBIN)
    if path is None:
        _give_up(_TOOL.format(tool=tool, package=package))
    return path


def for_root(what_for: str) -> None:
    """Goes on for root only. A plain user's test is skipped, and says so; CI runs as root, so there it fails."""
    if os.geteuid() != 0:
        cannot_run(f"only root may run it, {what_for}")


def cannot_run(reason: str) -> NoReturn:
    """Skips the test because this host cannot do what it needs; with CI=true it fails."""
    _give_up(_HOST + reason)


def package_of(reason: str) -> str | None:
    """The Debian package that a skip with this reason asks for."""
    match = _TOOL_PATTERN.search(reason)
    return match["package"] if match else None


def _give_up(reason: str) -> NoReturn:
    import pytest  # late: the demo, and other uids' Pythons, import this package without it

    if os.environ.get("CI") == "true":
        pytest.fail(f"{reason}; with CI=true nothing may be missing", pytrace=False)
    pytest.skip(reason)
