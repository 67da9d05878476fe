"""What a session of either direction is: an owned fd with a name.

A program sees these classes only as `LiveUpdate`, `OutgoingSession` and
`IncomingSession`.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

from luod.errors import BadInput
from luod.linux import Fd
from luod.liveupdate import calls
from luod.memory import Limits
from luod.uapi import liveupdate as uapi

NAME_MAX: Final = uapi.LIVEUPDATE_SESSION_NAME_LENGTH - 1
"""Bytes of a session's name."""


def encode_name(name: str) -> bytes:
    """A session's name as the kernel takes it: UTF-8, lone surrogates as the bytes they stand for. BadInput."""
    check_text(name, "a session's name")
    try:
        encoded = name.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise BadInput(f"a session's name cannot be encoded: {name!r:.100}") from error
    if not 1 <= len(encoded) <= NAME_MAX or 0 in encoded:
        raise BadInput(f"a session's name has 1 to {NAME_MAX} bytes and no NUL: {name!r:.100}")
    return encoded


def check_text(text: object, what: str) -> None:
    """BadInput unless `text`, which is `what`, is a str."""
    if not isinstance(text, str):
        raise BadInput(f"{what} is text, a str: {text!r:.100}")


def check_token(token: object) -> None:
    """BadInput unless `token` is a number that fits 64 bits without a sign.

    What no kernel could be asked for must not get into the manifest either: whoever reads it would find it damaged.
    """
    if not isinstance(token, int) or isinstance(token, bool) or not 0 <= token <= uapi.TOKEN_MAX:
        raise BadInput(f"a token is a number from 0 to 2^64-1: {token!r:.100}")


class Owner:
    """What the three classes share: one owned fd."""

    def __init__(self, fd: Fd) -> None:
        self._fd = fd

    def fileno(self) -> int:
        """The fd's number, still owned by this object. BadInput: it is closed."""
        return self._fd.fileno()

    def close(self) -> None:
        """Closes the fd; a second call does nothing."""
        self._fd.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Session(Owner):
    def __init__(self, fd: Fd, limits: Limits | None = None) -> None:
        """Takes ownership of `fd`, and of `limits`, which is asked where the limits of memory cannot be read here."""
        super().__init__(fd)
        self._limits = limits
        self._forget_limits: Callable[[], object] = _nothing
        if limits is not None:
            self._forget_limits = weakref.finalize(self, limits.close)

    def close(self) -> None:
        super().close()
        self._forget_limits()

    @property
    def name(self) -> str:
        """The session's name, asked of the kernel (GET_NAME), also after FINISH. Bytes that are no UTF-8 come as
        surrogates, as file names do in Python. KernelRefused.
        """
        argument = bytearray(uapi.SESSION_GET_NAME.pack(uapi.SESSION_GET_NAME.size, 0, b""))
        calls.GET_NAME.make(self.fileno(), argument)
        # The kernel writes the name and its NUL and leaves the rest of the field as it was.
        field: bytes = uapi.SESSION_GET_NAME.unpack(argument)[2]
        return field.partition(b"\0")[0].decode("utf-8", "surrogateescape")

    def duplicate(self) -> Fd:
        """Another fd of the same session; the caller owns it. The session lives as long as either."""
        return self._fd.duplicate()

    def detach(self) -> Fd:
        """The session's fd; the caller owns it, and this object is closed."""
        fd = Fd(self._fd.detach())
        self._forget_limits()
        return fd


def _nothing() -> None:
    pass
