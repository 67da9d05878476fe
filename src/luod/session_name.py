"""The names of sessions and their syntax. Pure; used on both sides of luod's socket.

NAME is a workload, and the session that it preserves while it runs. NAME#GENERATION is a session that it created while
frozen, in the update of that number.
"""

from __future__ import annotations

from luod.errors import BadInput
from luod.frozen import frozen
from luod.static import Final, Self

OWN: Final = "luod"
"""The session of luod's registry. Names that begin with it are reserved, and so is `systemd`."""
_LENGTH_MAX: Final = 63
_ALLOWED: Final = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._@/#-")


def is_allowed(text: str) -> bool:
    """Returns whether `text` has the syntax of names of sessions, of stashes, and of participants."""
    return 1 <= len(text) <= _LENGTH_MAX and _ALLOWED.issuperset(text)


@frozen
class SessionName:
    """NAME, `base`, or NAME#GENERATION. Raises BadInput if no session of a program may have this name."""

    base: str
    generation: int | None = None

    def __post_init__(self) -> None:
        if not (self.base and is_allowed(str(self)) and (self.generation is None or self.generation >= 0)):
            raise BadInput(
                f"{str(self)!r:.100} is not a valid session name",
                hint="a name has 1 to 63 of the letters A-Z a-z, digits, and . _ @ / # -",
            )
        if self.base == "systemd" or self.base.startswith(OWN):
            raise BadInput(
                f"the name {str(self)!r} is reserved", hint=f"`systemd` and names that begin with `{OWN}` are"
            )
        if _split(self.base)[1]:
            raise BadInput(
                f"{str(self)!r} is not a valid session name",
                hint="a name ends in # and a number once, and the number has no leading zeros",
            )

    @classmethod
    def parse(cls, text: object) -> Self:
        """Returns the parsed name. Raises BadInput if no session of a program may have it."""
        if not isinstance(text, str):
            raise BadInput(f"a session's name is text, a str: {text!r:.100}")
        base, digits = _split(text) if is_allowed(text) else (text, "")
        if not digits or (len(digits) > 1 and digits.startswith("0")):
            return cls(text)
        return cls(base, int(digits))

    def __str__(self) -> str:
        return self.base if self.generation is None else f"{self.base}#{self.generation}"


def _split(text: str) -> tuple[str, str]:
    """Returns the parts before and after the last #, if the second is a number; `text` and "" otherwise."""
    base, _, digits = text.rpartition("#")
    return (base, digits) if base and digits.isascii() and digits.isdigit() else (text, "")
