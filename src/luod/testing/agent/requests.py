"""Reads the members of a test's request from its JSON, with checks."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any, TypeVar

_T = TypeVar("_T")


class BadRequest(Exception):
    """The request is invalid. Nothing was done."""


def member(request: Mapping[str, Any], name: str, kind: type[_T], default: _T | None = None) -> _T:
    """Returns the member `name` of a request, which must be a `kind`; `default`, if given, when absent or null."""
    value = request.get(name)
    if value is None and default is not None:
        return default
    if not isinstance(value, kind) or (kind is not bool and isinstance(value, bool)):
        raise BadRequest(f"{name}: a {kind.__name__} is wanted, not {value!r:.80}")
    return value


def member_bytes(request: Mapping[str, Any], name: str) -> bytes:
    """Returns the base64 member `name` as bytes, b"" when absent."""
    try:
        return base64.b64decode(member(request, name, str, ""), validate=True)
    except binascii.Error as error:
        raise BadRequest(f"{name}: {error}") from None
