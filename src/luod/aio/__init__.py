"""luod from asyncio: `luod.AsyncClient`, and `luod.AsyncParticipant` for a part in updates.

The same as `luod.client` and `luod.participant`, which document it, with coroutines.
"""

from __future__ import annotations

from luod.aio.client import AsyncClient, AsyncHeldIncomingSession, AsyncHeldOutgoingSession, AsyncRestored
from luod.aio.participant import AsyncParticipant, AsyncPhase

__all__ = [  # noqa: RUF022 - most important first
    "AsyncClient",
    "AsyncHeldOutgoingSession",
    "AsyncHeldIncomingSession",
    "AsyncRestored",
    "AsyncParticipant",
    "AsyncPhase",
]
