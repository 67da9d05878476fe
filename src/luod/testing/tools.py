"""Tools that a test needs on the host. If one is missing the test is skipped, or fails with CI=true.

`luod.testing.plugin` lists the skipped tests at the end.
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
    """Returns the path of the program `tool`. If it is missing the test is skipped; with CI=true it fails."""
    path = shutil.which(tool) or shutil.which(tool, path=_SBIN)
    if path is None:
        _give_up(_TOOL.format(tool=tool, package=package))
    return path


def for_root(what_for: str) -> None:
    """Skips the test for a plain user. CI runs as root, so with CI=true it fails instead."""
    if os.geteuid() != 0:
        cannot_run(f"only root may run it, {what_for}")


def cannot_run(reason: str) -> NoReturn:
    """Skips the test because this host lacks what it needs; with CI=true it fails."""
    _give_up(_HOST + reason)


def is_ours(reason: str) -> bool:
    """Returns whether the reason of a skip is one of this module's."""
    return reason.startswith(_HOST) or package_of(reason) is not None


def package_of(reason: str) -> str | None:
    """Returns the Debian package in the reason of a skip, or None."""
    match = _TOOL_PATTERN.search(reason)
    return match["package"] if match else None


def _give_up(reason: str) -> NoReturn:
    import pytest  # imported late: the demo, and other uids' Pythons, import this package without it

    if os.environ.get("CI") == "true":
        pytest.fail(f"{reason}; with CI=true nothing may be missing", pytrace=False)
    pytest.skip(reason)
