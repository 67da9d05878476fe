"""Waiting in tests, with a deadline and a description for the failure."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, TypeVar

T = TypeVar("T")

_PAUSE_SECONDS: Final = 0.02


def eventually(check: Callable[[], T | None], *, within: float = 60.0, describe: str) -> T:
    """Calls `check` until it returns a true value, and returns that.

    Raises AssertionError with `describe` and the last result of `check`, when `within` seconds have passed.
    """
    deadline = time.monotonic() + within
    while not (found := check()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {within:g} s: {describe}; last seen: {found!r}")
        time.sleep(_PAUSE_SECONDS)
    return found
