"""The names of sessions and their syntax. Pure; used on both sides of luod's socket.

NAME is a workload, and the session that it preserves while it runs. NAME#GENERATION is a session that it created while
frozen, in the update of that number.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Self

from luod.errors import BadInput

ALLOWED: Final = re.compile(r"[A-Za-z0-9._@/#-]{1,63}")
"""The syntax of names of sessions, of stashes, and of participants."""
OWN: Final = "luod"
"""The session of luod's registry. Names that begin with it are reserved, and so is `systemd`."""
_NUMBERED: Final = re.compile(r"(.+)#([0-9]+)")


@dataclass(frozen=True, order=True)
class SessionName:
    """NAME, `base`, or NAME#GENERATION. Raises BadInput if no session of a program may have this name."""

    base: str
    generation: int | None = None

    def __post_init__(self) -> None:
        if not (self.base and ALLOWED.fullmatch(str(self)) and (self.generation is None or self.generation >= 0)):
            raise BadInput(
                f"{str(self)!r:.100} is not a valid session name",
                hint="a name has 1 to 63 of the letters A-Z a-z, digits, and . _ @ / # -",
            )
        if self.base == "systemd" or self.base.startswith(OWN):
            raise BadInput(
                f"the name {str(self)!r} is reserved", hint=f"`systemd` and names that begin with `{OWN}` are"
            )
        if _NUMBERED.fullmatch(self.base):
            raise BadInput(
                f"{str(self)!r} is not a valid session name",
                hint="a name ends in # and a number once, and the number has no leading zeros",
            )

    @classmethod
    def parse(cls, text: object) -> Self:
        """Returns the parsed name. Raises BadInput if no session of a program may have it."""
        if not isinstance(text, str):
            raise BadInput(f"a session's name is text, a str: {text!r:.100}")
        numbered = _NUMBERED.fullmatch(text)
        if numbered is None or (len(numbered[2]) > 1 and numbered[2].startswith("0")):
            return cls(text)
        return cls(numbered[1], int(numbered[2]))

    def __str__(self) -> str:
        return self.base if self.generation is None else f"{self.base}#{self.generation}"
