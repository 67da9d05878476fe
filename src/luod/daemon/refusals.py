"""Failed calls in the log: all of operators, and calls of any user that luod declined, with uid and reason."""

from __future__ import annotations

from luod.daemon.log import Log
from luod.ipc.names import ADMIN
from luod.ipc.server.peer import Peer
from luod.ipc.server.sparing import Sparing
from luod.static import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

_DECLINED: Final = frozenset(("Refused", "PermissionDenied"))
_METHOD_CHARACTERS: Final = 64
"""The maximum length of a method's name, which the client chooses."""
_REASONS: Final = {
    "PermissionDenied": "it is not for this user",
    "InterfaceNotFound": "the policy does not let this user update",
    "MethodNotFound": "there is no such method",
}


class Refusals:
    def __init__(self, sparing: Sparing, log: Log) -> None:
        self._sparing = sparing
        self._log = log

    def __call__(self, peer: Peer, method: str, error: str, parameters: Mapping[str, Any]) -> None:
        """Logs that `method` of `peer` was answered with `error`."""
        interface, _, name = method.rpartition(".")
        kind = error.rpartition(".")[2]
        if interface != ADMIN and kind not in _DECLINED:
            return
        reason = parameters.get("message") or _REASONS.get(kind, "")
        self._sparing(
            "refused",
            of=peer.uid,
            write=self._log.warning,
            method=f"{interface.rpartition('.')[2]}.{name}"[:_METHOD_CHARACTERS],
            uid=peer.uid,
            pid=peer.pid,
            error=kind,
            reason=reason or parameters.get("parameter", ""),
        )
