"""What a request of the test holds, taken out of its JSON with care."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any, TypeVar

_T = TypeVar("_T")


class BadRequest(Exception):
    """The request is not one. Nothing was done."""


def member(request: Mapping[str, Any], name: str, kind: type[_T], default: _T | None = None) -> _T:
    """The member `name` of a request, which must be a `kind`; absent or null gives `default`, if there is one."""
    value = request.get(name)
    if value is None and default is not None:
        return default
    if not isinstance(value, kind) or (kind is not bool and isinstance(value, bool)):
        raise BadRequest(f"{name}: a {kind.__name__} is wanted, not {value!r:.80}")
    return value


def member_bytes(request: Mapping[str, Any], name: str) -> bytes:
    """The base64 member `name` as bytes, b"" when absent."""
    try:
        return base64.b64decode(member(request, name, str, ""), validate=True)
    except binascii.Error as error:
        raise BadRequest(f"{name}: {error}") from None
