"""Parses a message as a call, or makes the error reply for another message.

The Varlink specification leaves some of it open. Here a null member of a call counts as absent. A member that the
specification does not know is ignored, since vendors may add some. A method without an interface is not found. A
message that is not a JSON object gets an error reply, and then the connection is closed.
"""

from __future__ import annotations

import json
import re

from luod.frozen import frozen
from luod.ipc.errors import CallError, InvalidParameter, MethodNotFound, MethodNotImplemented
from luod.static import Any, Final, NoReturn

_METHOD: Final = re.compile(
    r"[A-Za-z](?:-*[A-Za-z0-9])*(?:\.[A-Za-z0-9](?:-*[A-Za-z0-9])*)+\.[A-Z][A-Za-z0-9]*", re.ASCII
)
_MOST_CHARACTERS: Final = 512
"""The maximum length of a method's name."""
_SURROGATE: Final = re.compile(rb"\\u[dD][89a-fA-F]")
_FLAGS: Final = ("oneway", "more", "upgrade")


@frozen
class Call:
    """A call. `method` includes the interface."""

    method: str
    parameters: dict[str, Any]
    oneway: bool = False
    more: bool = False


class Malformed(Exception):
    """A message that is not a call. `error` is its reply; `fatal`: the connection is closed after that; `oneway`: it
    wants no reply.
    """

    def __init__(self, error: CallError, *, fatal: bool = False, oneway: bool = False) -> None:
        super().__init__(type(error).__name__)
        self.error = error
        self.fatal = fatal
        self.oneway = oneway


def parse(message: bytes) -> Call:
    """Returns the call in `message`, which comes without its NUL. Raises Malformed."""
    call = _object(message)
    oneway = call.get("oneway") is True
    flags = {}
    for flag in _FLAGS:
        value = call.get(flag)
        if value is not None and not isinstance(value, bool):
            raise Malformed(InvalidParameter(parameter=flag), oneway=oneway)
        flags[flag] = value is True
    method, parameters = call.get("method"), call.get("parameters")
    if not isinstance(method, str):
        raise Malformed(InvalidParameter(parameter="method"), oneway=oneway)
    if parameters is not None and not isinstance(parameters, dict):
        raise Malformed(InvalidParameter(parameter="parameters"), oneway=oneway)
    if flags["oneway"] and flags["more"]:
        raise Malformed(InvalidParameter(parameter="more"), oneway=oneway)
    if len(method) > _MOST_CHARACTERS or not _METHOD.fullmatch(method):
        raise Malformed(MethodNotFound(method=method), oneway=oneway)
    if flags["upgrade"]:
        raise Malformed(MethodNotImplemented(method=method), oneway=oneway)
    return Call(method, parameters or {}, flags["oneway"], flags["more"])


def may_be_oneway(message: bytes) -> bool:
    """Returns whether the call might want no reply. It is cheaper than `parse`, for callers that hung up."""
    return b'"oneway"' in message or b"\\u" in message


def _object(message: bytes) -> dict[str, Any]:
    try:
        value = json.loads(message.decode(), parse_constant=_no_json)
        if _SURROGATE.search(message):
            # A half of a surrogate pair is not a character: it cannot be written to a file.
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise Malformed(InvalidParameter(parameter="message"), fatal=True) from error
    if not isinstance(value, dict):
        raise Malformed(InvalidParameter(parameter="message"), fatal=True)
    return value


def _no_json(word: str) -> NoReturn:
    """Raises ValueError for NaN and Infinity, which Python's reader accepts."""
    raise ValueError(f"{word} is not JSON")
