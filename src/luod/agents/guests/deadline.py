"""A limit on the time that a QEMU may take, with an error that says what it did not do."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Final

from luod.errors import QemuLate

QEMU_SECONDS: Final = 120.0
"""How long a QEMU may take for one thing: to start, to answer, to write or to load a state.

It is long enough for one on a processor that is emulated, which needs half a minute to start. Only a QEMU that hangs
takes longer; in an update luod's own deadline comes first.
"""


@contextlib.asynccontextmanager
async def in_time(seconds: float, missed: str) -> AsyncIterator[None]:
    """Ends the block after `seconds`. Raises QemuLate then: `missed` says what did not happen."""
    limit = asyncio.timeout(seconds)
    try:
        async with limit:
            yield
    except TimeoutError as error:
        if not limit.expired():
            raise
        raise QemuLate(f"{missed} within {seconds:.0f} s") from error
