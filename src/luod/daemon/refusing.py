"""Answers every call with one error: what serve does with the registry of a newer luod, which it must not change.

The supervisor holds every session and file meanwhile, so a newer luod takes them over when it is installed. To end
instead would leave calls in the sockets, for which PID 1 would start luod again and again.
"""

from __future__ import annotations

from luod.errors import Refused
from luod.ipc.interfaces.admin import Admin
from luod.ipc.interfaces.sessions import Sessions
from luod.ipc.interfaces.updates import Updates
from luod.ipc.server.connection import Limits
from luod.ipc.server.foreign_files import ForeignFiles
from luod.ipc.server.methods import Interface, Method
from luod.ipc.server.sparing import Sparing
from luod.ipc.server.wire import Listener
from luod.static import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio

    from luod.daemon.log import Log
    from luod.daemon.store.fd_store import FdStore
    from luod.daemon.supervisor.serve_process import Given
    from luod.ipc.server.peer import Peer


async def refuse(error: Refused, given: Given, store: FdStore, end: asyncio.Future[int], log: Log) -> int:
    """Answers calls with `error` until `end`, and returns its result. Changes nothing in `store`, which it closes."""
    log.error("state-newer", error=error, hint=error.hint)
    sparing = Sparing(log)
    foreign = ForeignFiles(sparing)
    refusing = [_refusing(interface, error) for interface in (Sessions, Updates, Admin)]

    def interfaces(_peer: Peer) -> list[Interface]:
        return refusing

    listeners = [
        Listener(listening, interfaces, sparing, limits=Limits(), foreign=foreign, root_only=root_only)
        for listening, root_only in ((given.sessions, False), (given.admin, True))
    ]
    await store.ready()
    status = await end
    foreign.close()
    for listener in listeners:
        await listener.close()
    sparing.close()
    store.close()
    return status


def _refusing(interface: type[Interface], error: Refused) -> Interface:
    """Returns an interface with the methods of `interface`, each of which raises the error."""

    class Refusing(Interface, name=interface.name):
        @classmethod
        def method(cls, name: str) -> Method | None:
            if interface.method(name) is None:
                return None
            raise Refused(error.message, hint=error.hint)

        @classmethod
        def description(cls) -> str:
            return interface.description()

    return Refusing()
