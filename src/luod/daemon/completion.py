"""Changes that are completed even if the client that requested them hangs up.

A client that hangs up cancels its call. A partial change would leave the supervisor, the registry and the kernel with
different sessions or images, and a thread cannot be cancelled at all.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine

from luod.ipc.server.turns import charged
from luod.static import Any, Final, TypeVar

T = TypeVar("T")

_changes: Final[set[asyncio.Task[Any]]] = set()
"""The running changes: the event loop itself has weak references only."""


async def completed(change: Coroutine[Any, Any, T], *, unclaimed: Callable[[T], object] | None = None) -> T:
    """Runs `change` in a task of its own, and returns its result.

    If the caller is cancelled meanwhile, the change continues. Its result goes to `unclaimed`, which closes it, and its
    error is dropped.
    """
    task = asyncio.ensure_future(charged(change))
    _changes.add(task)
    task.add_done_callback(_changes.discard)

    def end(task: asyncio.Task[T]) -> None:
        if not task.cancelled() and task.exception() is None and unclaimed is not None:
            unclaimed(task.result())

    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        task.add_done_callback(end)
        raise
