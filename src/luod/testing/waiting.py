"""Waiting in tests, with a deadline and a description for the failure."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final, TypeVar

T = TypeVar("T")

_PAUSE_SECONDS: Final = 0.02
_NOT: Final = "not within {:g} s: {}; last seen: {!r}"


def eventually(check: Callable[[], T | None], *, within: float = 60.0, describe: str) -> T:
    """Calls `check` until it returns a true value, and returns that.

    Raises AssertionError with `describe` and the last result of `check`, when `within` seconds have passed.
    """
    deadline = time.monotonic() + within
    while not (found := check()):
        if time.monotonic() > deadline:
            raise AssertionError(_NOT.format(within, describe, found))
        time.sleep(_PAUSE_SECONDS)
    return found


async def eventually_async(check: Callable[[], object], *, within: float = 60.0, describe: str) -> None:
    """Calls `check` until it returns a true value, while the other tasks of the running loop continue.

    Raises AssertionError as `eventually`.
    """
    deadline = time.monotonic() + within
    while not (found := check()):
        if time.monotonic() > deadline:
            raise AssertionError(_NOT.format(within, describe, found))
        await asyncio.sleep(_PAUSE_SECONDS)
