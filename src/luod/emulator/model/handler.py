"""File handlers: one object a kind of file, asked in the order of the table, and who of them holds which file.

`memfd.py` is the first. A handler leaves out what its kind does not need, as the kernel's tables of pointers do.
"""

from __future__ import annotations

import errno
from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterable
from typing import Any, Generic, Protocol, TypeVar

from luod.emulator.model.ports import Errno, HostFile


class Carried(Protocol):
    """What one file is while it goes from a kernel to the next, and until it is retrieved or finished."""

    def drop(self) -> None:
        """Its memory is free again. Called once, by whoever ends it; may be called after a retrieve."""
        ...


class Beside(Protocol):
    """Another file of the session that a file is about to be preserved in."""

    @property
    def file(self) -> HostFile: ...

    @property
    def identity(self) -> Hashable: ...


State = TypeVar("State")
Record = TypeVar("Record", bound=Carried)


class FileHandler(ABC, Generic[State, Record]):
    """One kind of file. `State` is what it keeps in this kernel, `Record` what the next kernel gets."""

    compatible: str
    """The format of its records. A kernel whose image does not carry the string has no such handler."""

    @abstractmethod
    def can_preserve(self, file: HostFile) -> bool: ...

    @abstractmethod
    def identity(self, file: HostFile) -> Hashable:
        """What makes two files the same one, so that the second is EBUSY."""

    @abstractmethod
    def preserve(self, file: HostFile) -> State:
        """Errno: nothing is preserved. LUO keeps the reference to `file`."""

    def preserve_beside(self, file: HostFile, others: Iterable[Beside]) -> State:
        """`preserve`, for a kind that needs some of `others`, which are preserved already, to be there."""
        return self.preserve(file)

    def unpreserve(self, file: HostFile, state: State) -> None:
        """Undo `preserve`; LUO closes `file` afterwards."""

    def freeze(self, file: HostFile, state: State) -> None:
        """The last moment before the jump. Errno makes reboot(2) fail with it."""

    def unfreeze(self, file: HostFile, state: State) -> None:
        """A later file could not be frozen; this one had been."""

    @abstractmethod
    def carry(self, file: HostFile, state: State) -> Record:
        """The jump takes place. Owns `file` from here on: keeps it in the record, or closes it."""

    @abstractmethod
    def retrieve(self, record: Record) -> HostFile:
        """Called once, whatever comes of it. The file is owned by the caller, an Errno is final."""

    def can_finish(self, record: Record, file: HostFile | None) -> bool:
        """`file` is None when it was not retrieved, or could not be."""
        return True

    def finish(self, record: Record, file: HostFile | None) -> None:
        """The file is the user's alone from now on; unretrieved, it is gone. LUO closes `file` afterwards."""
        record.drop()


class HandlerTable:
    """The handlers of one boot in the order they were registered, and the files they hold at present."""

    def __init__(self, handlers: Iterable[FileHandler[Any, Any]]) -> None:
        self._handlers = tuple(handlers)
        self._held: set[Hashable] = set()

    def choose(self, file: HostFile) -> FileHandler[Any, Any]:
        """The first that can preserve `file`; Errno(ENOENT) if none can."""
        for handler in self._handlers:
            if handler.can_preserve(file):
                return handler
        raise Errno(errno.ENOENT)

    def compatible(self, name: str) -> FileHandler[Any, Any] | None:
        return next((handler for handler in self._handlers if handler.compatible == name), None)

    def hold(self, identity: Hashable) -> None:
        """Errno(EBUSY) when any session of this kernel holds it already, incoming ones included."""
        if identity in self._held:
            raise Errno(errno.EBUSY)
        self._held.add(identity)

    def let_go(self, identity: Hashable) -> None:
        self._held.remove(identity)
