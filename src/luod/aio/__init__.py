"""luod from asyncio: `await luod.aio.connect()`, and `luod.aio.Participant` for a part in updates.

The same surface as `luod.client` and `luod.participant`, which document it, with the same session objects. Only talking
to luod differs.
"""

from __future__ import annotations

from luod.aio.client import Client, SessionInfo, connect
from luod.aio.participant import Participant, Phase

__all__ = ["connect", "Client", "SessionInfo", "Participant", "Phase"]  # noqa: RUF022 - most important first
