"""Files that luod holds over a restart of a program without a kexec: memory and devices, in sets with a name.

A session cannot do this: files cannot be retrieved from an outgoing one. Only the user that stashed a set gets it, not
even root; a set of another user and a missing one get the same answer. The supervisor has the files, then the registry
the set, then the client is answered; in reverse the registry is first. No kernel carries them: `luod.daemon.preflight`
refuses an update while there are any. The interface is `io.luod.Sessions`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final, TypeVar

from luod.daemon.policy.current import Policy
from luod.daemon.policy.rules import Granted
from luod.daemon.sessions.file_kind import Discard, kind_of
from luod.daemon.sessions.names import parsed
from luod.daemon.store.fd_names import held_name
from luod.daemon.store.recovery import Holdings
from luod.daemon.store.registry import Registry
from luod.daemon.store.schema import Held, HeldFile
from luod.errors import Refused
from luod.ipc.errors import AlreadyStashed, Busy, NotStashed, PermissionDenied
from luod.ipc.server.peer import Peer
from luod.ipc.server.sparing import Sparing
from luod.linux import Fd

T = TypeVar("T")

FILES_OF_A_USER: Final = 64
"""The maximum for one uid, in all its sets."""
FILES: Final = 512
"""The maximum for all."""
LABEL_BYTES: Final = 127
"""The maximum length of a file's name in JSON: a user must not fill the registry, which all need."""


class HeldFiles:
    """Implements `luod.ipc.interfaces.sessions.FilesService`. `updating` returns whether an update is under way."""

    def __init__(
        self,
        holdings: Holdings,
        policy: Policy,
        updating: Callable[[], bool],
        discard: Discard,
        sparing: Sparing,
    ) -> None:
        self._registry: Registry = holdings.registry
        self._fds = holdings.fds
        self._policy = policy
        self._updating = updating
        self._discard = discard
        self._sparing = sparing
        self._lock = asyncio.Lock()

    async def stash(self, peer: Peer, name: str, files: Sequence[tuple[str, Fd | None]]) -> None:
        await self._in_turn(self._stash(peer, name, list(files)))

    async def unstash(self, peer: Peer, name: str) -> list[tuple[str, Fd]]:
        held = self._set(peer, name)
        self._sparing("lent", of=peer.uid, name=name, files=len(held.files), uid=peer.uid, pid=peer.pid)
        return [(file.name, self._fds[held_name(file)].duplicate()) for file in held.files]

    async def drop_stash(self, peer: Peer, name: str) -> None:
        await self._in_turn(self._drop_stash(peer, name))

    async def _in_turn(self, change: Coroutine[Any, Any, T]) -> T:
        async with self._lock:
            return await change

    async def _stash(self, peer: Peer, name: str, passed: list[tuple[str, Fd | None]]) -> None:
        try:
            files = self._check(peer, name, passed, await self._policy.granted(peer))
            sets = self._registry.rest.held
            first = max((file.number for held in sets for file in held.files), default=0) + 1
            held = Held(peer.uid, name, tuple(HeldFile(first + n, label) for n, (label, _) in enumerate(files)))

            def record() -> None:
                if self._updating():
                    raise _updating()
                self._registry.set_held((*self._registry.rest.held, held))

            named = zip(held.files, files, strict=True)
            await self._fds.store({held_name(file): fd for file, (_label, fd) in named}, record)
            self._sparing("stashed", of=peer.uid, name=name, files=len(files), uid=peer.uid, pid=peer.pid)
        finally:
            for _, passed_fd in passed:
                if passed_fd is not None:
                    self._discard(passed_fd)

    def _check(
        self, peer: Peer, name: str, files: list[tuple[str, Fd | None]], granted: Granted
    ) -> list[tuple[str, Fd]]:
        """Returns the files, all of which luod can hold. Raises Refused, AlreadyStashed, Busy, PermissionDenied."""
        workload = parsed(name).base
        if peer.anonymous:
            raise PermissionDenied()
        if not (granted.sessions and granted.allows(workload)):
            # While files are held an update is refused, so only some users may have files held.
            raise Refused(
                message=f"the policy does not allow you to stash files as {name!r}",
                hint=f"allowed names: {', '.join(granted.shown if granted.sessions else ()) or 'none'}",
            )
        if self._updating():
            raise _updating()
        sets = self._registry.rest.held
        if self._find(peer, name) is not None:
            raise AlreadyStashed(
                name=name,
                message=f"luod holds files {name!r} for this user already",
                hint="unstash them, drop the stash, or use another name",
            )
        labels = [label for label, _ in files]
        fit = all(label and len(json.dumps(label, ensure_ascii=False).encode()) - 2 <= LABEL_BYTES for label in labels)
        if not files or len(set(labels)) != len(labels) or not fit:
            raise Refused(
                message=f"a set has files with names of 1 to {LABEL_BYTES} bytes in JSON, each once",
                hint="see docs/restart-vmm.md",
            )
        taken = []
        for label, fd in files:
            if fd is None or kind_of(fd) is None:
                raise Refused(
                    message=f"the file {label!r} is neither memory nor a device",
                    hint="luod holds memfds and devices of VFIO and iommufd only",
                )
            taken.append((label, fd))
        mine = sum(len(held.files) for held in sets if held.owner == peer.uid)
        everybodys = sum(len(held.files) for held in sets)
        if mine + len(files) > FILES_OF_A_USER or everybodys + len(files) > FILES:
            raise Refused(
                message=f"luod holds up to {FILES_OF_A_USER} files of a user, {FILES} of all; {mine} are this one's",
                hint="unstash some",
            )
        return taken

    async def _drop_stash(self, peer: Peer, name: str) -> None:
        held = self._set(peer, name)
        self._registry.set_held(tuple(other for other in self._registry.rest.held if other is not held))
        await self._fds.drop(*map(held_name, held.files), discard=self._discard)
        self._sparing("stash-dropped", of=peer.uid, name=name, files=len(held.files), uid=peer.uid, pid=peer.pid)

    def _find(self, peer: Peer, name: str) -> Held | None:
        return next((h for h in self._registry.rest.held if (h.owner, h.name) == (peer.uid, name)), None)

    def _set(self, peer: Peer, name: str) -> Held:
        held = None if peer.anonymous else self._find(peer, name)
        if held is None:
            raise NotStashed(
                name=name,
                message=f"luod holds no files {name!r} for this user",
                hint="stashed files belong to the user that stashed them, and are lost in a kexec",
            )
        return held


def _updating() -> Busy:
    return Busy(message="an update is running and would lose the files", hint="try again when it has ended")
