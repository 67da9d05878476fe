"""The fds that luod holds, by name, and their copies in PID 1's store.

It knows neither serve nor /dev/liveupdate: `requests` executes what serve asks, `init_store` speaks to PID 1.
"""

from __future__ import annotations

import contextlib
import errno
import sys
import time
from collections.abc import Mapping
from types import MappingProxyType

from luod.daemon.log import Log
from luod.daemon.supervisor import protocol
from luod.daemon.supervisor.ending import ended_sessions
from luod.daemon.supervisor.init_store import InitStore
from luod.linux import Fd
from luod.static import Final, Protocol

_HEAL_SECONDS: Final = 0.5
"""Between two tries to bring PID 1's store up to date."""
_LAST_HEAL_SECONDS: Final = 8.0
"""How long luod's end waits for a PID 1 that does not answer. It has 20 s in all (TimeoutStopSec=)."""
_LAST_HEAL_PAUSE: Final = 0.05
_SPARE_FDS: Final = 32
"""The fds of the limit that the supervisor and serve need for themselves."""
_SESSIONS: Final = (protocol.OUTGOING, protocol.INCOMING)
_STORE_FULL: Final = "systemd's store for luod's unit has no room for one more file"
_STORE_HINT: Final = "raise FileDescriptorStoreMax= of luod.service in a drop-in, then run `systemctl daemon-reload`"
NO_ROOM: Final = "luod has no room for more fds"


class Closable(Protocol):
    def close(self) -> None: ...


class Custody:
    """Owns every fd that is given to it."""

    def __init__(
        self,
        copies: InitStore,
        log: Log,
        fds: Mapping[str, Fd] = MappingProxyType({}),
        *,
        limit: int = sys.maxsize,
    ) -> None:
        """`copies`: PID 1's store. `limit`: the maximum number of fds of a process of luod."""
        self.copies = copies
        self._log = log
        self._fds = dict(fds)
        self._limit = limit
        self._heal_at = 0.0
        self._told = False
        """Whether the log has that PID 1 may lack copies."""

    @property
    def fds(self) -> Mapping[str, Fd]:
        return self._fds

    def keep(self, name: str, fd: Fd) -> None:
        """Holds an fd under a name, in place of any that has it, and has PID 1 hold a copy, which `settle` awaits.

        A copy that fails for any reason is a fault of PID 1's store, which `heal` mends: the kernel gives a session
        once, so the request that opened it must not fail.
        """
        self.forget(name)
        self._fds[name] = fd
        try:
            self.copies.put(name, fd)
        except Exception as error:  # noqa: BLE001 - also a defect, or a lack of memory
            self.copies.failed(name, fd, str(error) or repr(error))

    def forget(self, name: str) -> None:
        if name in self._fds:
            self.copies.remove(name)
            close(self._fds.pop(name))

    def settle(self) -> None:
        """Waits for PID 1. A client that is answered finds its session again whatever process of luod ends.

        A PID 1 that does not answer in time delays one message. Until it answers, `heal` repeats what it may have
        missed, and clients are answered without it: their sessions end only if every process of luod does.
        """
        self.copies.settle()
        self.tell()

    def heal(self, now: float) -> None:
        """Continues to bring PID 1's store up to date, after it failed."""
        if self.copies.fault and now >= self._heal_at:
            self._heal_at = now + _HEAL_SECONDS
            self.copies.heal()
            self.tell()

    def heal_due(self) -> float:
        """Returns when `heal` has something to do, as of time.monotonic(); infinity if PID 1 lacks nothing."""
        return self._heal_at if self.copies.fault else float("inf")

    def tell(self) -> None:
        """Logs that PID 1 may lack copies, or that it has all of them again."""
        if bool(problem := self.copies.problem) == self._told:
            return
        self._told = bool(problem)
        if not problem:
            self._log("pid-1-store-again", fds=len(self._fds))
            return
        self._log.error(
            "pid-1-store",
            reason=problem,
            missing=self.copies.missing,
            meaning="if every process of luod ended now, sessions would be lost",
            hint="luod tries again by itself; see `luoctl status`",
        )

    def no_room(self) -> Mapping[str, object]:
        """Returns a refusal if one more fd would not leave enough to start serve again, which needs each of them too,
        or does not fit into PID 1's store. {} if it may be stored.
        """
        if len(self._fds) + _SPARE_FDS >= self._limit:
            return {"ERRNO": errno.EMFILE, "CALL": "luod", "MEANING": NO_ROOM}
        if not self.copies.has_room():
            return {"ERRNO": errno.EMFILE, "CALL": "luod", "MEANING": _STORE_FULL, "HINT": _STORE_HINT}
        return {}

    def let_go(self) -> None:
        """Closes all held fds that PID 1 does not keep, and logs the sessions that ended with that: no other process
        had them open. A PID 1 that answers again meanwhile keeps them all.
        """
        deadline = time.monotonic() + _LAST_HEAL_SECONDS
        while self.copies.size and self.copies.fault and time.monotonic() < deadline and not self.copies.heal():
            time.sleep(_LAST_HEAL_PAUSE)
        if self._fds:
            self._log("stopped", fds=len(self._fds), kept_by_pid_1=self.copies.complete)
        if self.copies.complete:
            return
        sessions = [name for name in self._fds if name.startswith(_SESSIONS)]
        files = [name for name in self._fds if name.startswith(protocol.HELD)]
        for fd in self._fds.values():
            close(fd)
        self._fds.clear()
        if files:
            self._log.warning(
                "files-closed", files=len(files), reason="luod held them for their owners, and is stopped"
            )
        own = (protocol.OUTGOING + protocol.REGISTRY_SESSION, protocol.INCOMING + protocol.REGISTRY_SESSION)
        ended, error = ended_sessions([name for name in sessions if name not in own])
        for name in ended:
            direction, _, session = name.partition(".")
            reason = "only luod had it open, and luod is stopped"
            if name.startswith(protocol.INCOMING):
                reason += "; unless it was finished, what it held is freed"
            self._log.warning("session-lost", name=session, direction=direction, reason=reason)
        if error is not None:
            self._log.warning("sessions-closed", reason=f"which of them others have open is not known: {error}")


def close(file: Closable) -> None:
    """Closes a file, even if the file reports an error: a file system that is full or gone."""
    with contextlib.suppress(OSError):
        file.close()
