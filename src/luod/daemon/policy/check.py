"""Finds all mistakes of a policy file, each with its line, for `luod check-config`.

luod itself needs only the first (`luod.daemon.policy.file`): it does not use such a file. The line of a member is that
where it begins to be in what tomllib reads, since tomllib does not say it.
"""

from __future__ import annotations

import re
import tomllib
from typing import Any, Final

from luod.daemon.policy import commands, file
from luod.errors import PolicyError

_PART: Final = re.compile(r"\[(\d+)\]|([^.\[\]]+)")


def mistakes(path: str) -> tuple[int, list[PolicyError]]:
    """Returns the number of rules, and the mistakes in the order of their lines.

    Raises FileNotFoundError. Raises PolicyError for a file that cannot be read, or is not TOML: then it has no members.
    """
    data = file.read(path)
    settings, faults = file.judged(file.table(data, path))
    known = {member for member, _, _ in faults}
    faults += [fault for fault in commands.faults(settings) if fault[0] not in known]
    lines = Lines(data.decode())
    found = [(lines.of(member), member, message, hint) for member, message, hint in faults]
    found.sort(key=lambda each: each[0] or 0)
    return len(settings.rules), [
        PolicyError(path, member, message, hint=hint, line=line) for line, member, message, hint in found
    ]


class Lines:
    """The lines of the members of a TOML text, which must be valid."""

    def __init__(self, text: str) -> None:
        self._lines = text.split("\n")
        self._read: dict[int, dict[str, Any] | None] = {0: {}}
        """By a number of lines: what they say, None if they end inside of a value."""

    def of(self, member: str) -> int | None:
        """Returns the number of the line on which the member begins, counted from 1; None if it is not found."""
        keys = [name or int(index) for index, name in _PART.findall(member)]
        low, high = 0, len(self._lines)
        if not keys or not _has(self._said(high)[1], keys):
            return None
        # `low` lines do not have the member, and `high` lines do.
        while high - low > 1:
            middle = (low + high) // 2
            if _has(self._said(middle)[1], keys):
                high = middle
            else:
                low = middle
        return self._said(low)[0] + 1

    def _said(self, count: int) -> tuple[int, dict[str, Any]]:
        """Returns the largest number of lines up to `count` that do not end inside of a value, and what they say."""
        while (table := self._parsed(count)) is None:
            count -= 1
        return count, table

    def _parsed(self, count: int) -> dict[str, Any] | None:
        if count not in self._read:
            try:
                self._read[count] = tomllib.loads("\n".join(self._lines[:count]) + "\n")
            except tomllib.TOMLDecodeError:
                self._read[count] = None
        return self._read[count]


def _has(value: Any, keys: list[str | int]) -> bool:
    for key in keys:
        if isinstance(key, int):
            if not isinstance(value, list) or key >= len(value):
                return False
        elif not isinstance(value, dict) or key not in value:
            return False
        value = value[key]
    return True
