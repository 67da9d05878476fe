"""Sessions of both directions and the files in them: preserving, retrieving, undoing.

Checks are in the order of kernel/liveupdate/luo_file.c and luo_session.c of Linux 7.3. Names and ioctls are in
`luo.py`.
"""

from __future__ import annotations

import enum
import errno
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from typing import Any

from luod.emulator.model.handler import Carried, FileHandler, HandlerTable
from luod.emulator.model.ports import Errno, HostFile, Retryable
from luod.emulator.model.results import Unfinished
from luod.uapi import liveupdate_next as posted


class Direction(enum.Enum):
    """Whether a session was created in this kernel or in the kernel before."""

    OUTGOING = "outgoing"
    INCOMING = "incoming"


@dataclass(frozen=True)
class FileRecord:
    """One file between two kernels."""

    token: int
    compatible: str
    carried: Carried


@dataclass(frozen=True)
class SessionRecord:
    """One session between two kernels, with its files in the order in which they were preserved."""

    name: bytes
    files: tuple[FileRecord, ...]

    def drop(self) -> None:
        for file in self.files:
            file.carried.drop()


@dataclass(frozen=True)
class PreservedFile:
    """LUO's own reference to a file, owned until `release`."""

    token: int
    handler: FileHandler[Any, Any]
    file: HostFile
    identity: Hashable
    # Each handler keeps a type of its own.
    state: Any

    def record(self) -> FileRecord:
        return FileRecord(self.token, self.handler.compatible, self.handler.carry(self.file, self.state))


class OutgoingSession:
    """A session created in this kernel. Its last close undoes it."""

    direction = Direction.OUTGOING

    def __init__(self, name: bytes, handlers: HandlerTable) -> None:
        self.name = name
        self._handlers = handlers
        self._files: dict[int, PreservedFile] = {}
        self.frozen = False
        """Whether FREEZE froze it, or the kexec that is in progress. There is no way back but its last close."""

    def __iter__(self) -> Iterator[PreservedFile]:
        """Iterates over the files in the order in which they were preserved."""
        return iter(self._files.values())

    def preserve(self, token: int, open_file: Callable[[], HostFile], *, argument: bool = False) -> None:
        """Preserves a file. `argument`: the caller passes one to the handler.

        Raises Errno: EBUSY frozen session; EEXIST used token; EBADF (`open_file`); ENOENT no handler; EOPNOTSUPP for an
        argument, since no handler takes one; EBUSY held; the errnos of the handler.
        """
        if self.frozen:
            raise Errno(errno.EBUSY)
        if token in self._files:
            raise Errno(errno.EEXIST)
        file = open_file()
        try:
            handler = self._handlers.choose(file)
            if argument:
                raise Errno(posted.ARGUMENT_NOT_TAKEN)
            identity = handler.identity(file)
            self._handlers.hold(identity)
            try:
                state = handler.preserve_beside(file, self._files.values())
            except (Errno, Unfinished):
                self._handlers.let_go(identity)
                raise
        except (Errno, Unfinished):
            file.close()
            raise
        self._files[token] = PreservedFile(token, handler, file, identity, state)
        if handler.freezes:
            self._handlers.frozen.add(identity)

    def unpreserve(self, token: int) -> None:
        """Stops preserving a file. Raises Errno(ENOENT) for an unknown token."""
        preserved = self._files.pop(token, None)
        if preserved is None:
            raise Errno(errno.ENOENT)
        preserved.handler.unpreserve(preserved.file, preserved.state)
        self._handlers.frozen.discard(preserved.identity)
        self._handlers.let_go(preserved.identity)
        preserved.file.close()

    def freeze(self, tell: Callable[[PreservedFile, Errno], None]) -> None:
        """Freezes every file, in the order in which they were preserved.

        Raises the Errno of a handler, which `tell` is told with its file; no file is frozen then.
        """
        done: list[PreservedFile] = []
        for preserved in self:
            try:
                preserved.handler.freeze_beside(preserved.file, preserved.state, self)
            except Errno as failure:
                tell(preserved, failure)
                for file in done:
                    file.handler.unfreeze(file.file, file.state)
                raise
            done.append(preserved)
        self.frozen = True

    def unfreeze(self) -> None:
        """Undoes `freeze`."""
        for file in self:
            file.handler.unfreeze(file.file, file.state)
        self.frozen = False

    def undo(self) -> None:
        """Stops preserving every file after the last close, the newest first."""
        for token in reversed(tuple(self._files)):
            self.unpreserve(token)

    def carry(self) -> SessionRecord:
        """Returns the record for the next kernel, which owns every file from now on."""
        record = SessionRecord(self.name, tuple(file.record() for file in self))
        self._files.clear()
        return record


@dataclass
class IncomingFile:
    """A file of the previous kernel. At most one of `file` (owned) and `error` is ever set, and then stays."""

    token: int
    handler: FileHandler[Any, Any]
    carried: Carried
    file: HostFile | None = None
    error: int = 0


class IncomingSession:
    """A session of the previous kernel. `retrieved` once its fd was given out. Its last close finishes it."""

    direction = Direction.INCOMING

    def __init__(self, record: SessionRecord, handlers: HandlerTable, *, all_retrieved: bool) -> None:
        """Raises KeyError with the format that has no handler in this kernel.

        `all_retrieved`: FINISH as in the document.
        """
        self.name = record.name
        self.retrieved = False
        self._handlers = handlers
        self._all_retrieved = all_retrieved
        self._files: dict[int, IncomingFile] = {}
        for file in record.files:
            handler = handlers.compatible(file.compatible)
            if handler is None:
                raise KeyError(file.compatible)
            self._files[file.token] = IncomingFile(file.token, handler, file.carried)

    def retrieve(self, token: int, open_target: Callable[[], HostFile] | None = None) -> HostFile:
        """Returns a file; the session owns it until `finish`. `open_target`: the caller passes an argument with a file.

        Raises Errno: ENOENT unknown token; EOPNOTSUPP where the handler takes no argument, and the errnos of
        `open_target`, before all else; that of a failed attempt, which is final unless it is Retryable.
        """
        incoming = self._files.get(token)
        if incoming is None:
            raise Errno(errno.ENOENT)
        target = None
        if open_target is not None:
            if not incoming.handler.takes_target:
                raise Errno(posted.ARGUMENT_NOT_TAKEN)
            target = open_target()
        try:
            return self._retrieved(incoming, target)
        finally:
            if target is not None and target is not incoming.file:
                target.close()

    def _retrieved(self, incoming: IncomingFile, target: HostFile | None) -> HostFile:
        if incoming.error:
            raise Errno(incoming.error)
        if incoming.file is None:
            held = target is not None and self._handlers.holds(incoming.handler.identity(target))
            try:
                incoming.file = incoming.handler.retrieve_into(incoming.carried, target, held=held)
            except Errno as failure:
                if not isinstance(failure, Retryable):
                    incoming.error = failure.code
                raise
            self._handlers.hold(incoming.handler.identity(incoming.file))
        return incoming.file

    def finish(self) -> None:
        """Finishes every file, the last one first.

        Raises Errno(EBUSY), with nothing changed, when a handler refuses.
        """
        for incoming in self._files.values():
            if self._all_retrieved and incoming.file is None:
                raise Errno(errno.EBUSY)
            if not incoming.handler.can_finish(incoming.carried, incoming.file):
                raise Errno(errno.EBUSY)
        for token in reversed(tuple(self._files)):
            incoming = self._files.pop(token)
            incoming.handler.finish(incoming.carried, incoming.file)
            if incoming.file is not None:
                self._handlers.let_go(incoming.handler.identity(incoming.file))
                incoming.file.close()

    def abandon(self) -> None:
        """Drops every file when the kernel ends before the session was finished. Handlers are not asked."""
        for incoming in self._files.values():
            incoming.carried.drop()
            if incoming.file is not None:
                incoming.file.close()
        self._files.clear()
