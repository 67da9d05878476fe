"""The common part of sessions of both directions: an owned fd with a name.

Programs use these classes only as `LiveUpdate`, `OutgoingSession` and `IncomingSession`.
"""

from __future__ import annotations

from luod.errors import BadInput, KernelRefused, WrongDirection
from luod.linux import Fd, Resource
from luod.liveupdate import calls
from luod.static import TYPE_CHECKING, Final
from luod.uapi import liveupdate as uapi

if TYPE_CHECKING:
    from luod.linux import HasFileno
    from luod.memory import Limits

NAME_MAX: Final = uapi.LIVEUPDATE_SESSION_NAME_LENGTH - 1
"""The maximum length of a session's name in bytes."""


def encode_name(name: str) -> bytes:
    """Returns a session's name as the kernel takes it: UTF-8, lone surrogates as their bytes. Raises BadInput."""
    check_text(name, "a session's name")
    try:
        encoded = name.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise BadInput(f"a session's name cannot be encoded: {name!r:.100}") from error
    if not 1 <= len(encoded) <= NAME_MAX or 0 in encoded:
        raise BadInput(f"a session's name has 1 to {NAME_MAX} bytes and no NUL: {name!r:.100}")
    return encoded


def check_text(text: object, what: str) -> None:
    """Raises BadInput unless `text`, which is `what`, is a str."""
    if not isinstance(text, str):
        raise BadInput(f"{what} is text, a str: {text!r:.100}")


def check_token(token: object) -> None:
    """Raises BadInput unless `token` is a number that fits 64 bits without a sign.

    A token that no kernel accepts must not get into the manifest either: its reader would find it damaged.
    """
    if not isinstance(token, int) or isinstance(token, bool) or not 0 <= token <= uapi.TOKEN_MAX:
        raise BadInput(f"a token is a number from 0 to 2^64-1: {token!r:.100}")


def number_of(file: int | HasFileno) -> int:
    """Returns the fd of `file`, which may be its number. Raises BadInput: it is closed, or neither."""
    if isinstance(file, int):
        return file
    try:
        return file.fileno()
    except ValueError as error:
        raise BadInput(f"the file is not open: {error}") from error
    except (AttributeError, TypeError) as error:
        raise BadInput(f"a file is an fd's number, or has fileno(): {file!r:.100}") from error


class Owner(Resource):
    """The part that the three classes share: one owned fd."""

    def __init__(self, fd: Fd) -> None:
        self._fd = fd

    def fileno(self) -> int:
        """Returns the fd, which this object still owns. Raises BadInput: it is closed."""
        return self._fd.fileno()

    def close(self) -> None:
        """Closes the fd. Idempotent."""
        self._fd.close()


class Session(Owner):
    def __init__(self, fd: Fd, limits: Limits | None = None) -> None:
        """Takes ownership of `fd`, and of `limits`, which reports the limits of memory that cannot be read here."""
        super().__init__(fd)
        self._limits = limits

    def close(self) -> None:
        super().close()
        self._close_limits()

    @property
    def name(self) -> str:
        """Returns the session's name from the kernel (GET_NAME), also after FINISH.

        Bytes that are not UTF-8 are surrogates, as in file names in Python. Raises KernelRefused.
        """
        argument = bytearray(uapi.SESSION_GET_NAME.pack(uapi.SESSION_GET_NAME.size, 0, b""))
        calls.GET_NAME.make(self.fileno(), argument)
        # The kernel writes the name and its NUL and leaves the rest of the field as it was.
        field: bytes = uapi.SESSION_GET_NAME.unpack(argument)[2]
        return field.partition(b"\0")[0].decode("utf-8", "surrogateescape")

    def duplicate(self) -> Fd:
        """Returns another fd of the same session; the caller owns it. The session lives as long as either."""
        return self._fd.duplicate()

    def detach(self) -> Fd:
        """Returns the session's fd, which the caller owns from now on. This object is closed."""
        fd = Fd(self._fd.detach())
        self._close_limits()
        return fd

    def _close_limits(self) -> None:
        if self._limits is not None:
            self._limits.close()


def is_incoming(session: Session) -> bool:
    """Returns whether the session came over the kexec, by the kernel's answer; also after FINISH. Changes nothing.

    The kernel is asked to preserve fd -1. It checks the direction of the session before the fd.
    """
    argument = uapi.SESSION_PRESERVE_FD.pack(uapi.SESSION_PRESERVE_FD.size, -1, uapi.TOKEN_MAX)
    try:
        calls.PRESERVE_FD.make(session.fileno(), bytearray(argument))
    except WrongDirection:
        return True
    except KernelRefused:
        return False
    raise AssertionError("fd -1 cannot have been preserved")
