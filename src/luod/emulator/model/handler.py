"""File handlers: one object for each kind of file. The table keeps their order and records which handler holds a file.

`memfd.py` is the first. A handler leaves out the methods that its kind does not need, as the kernel's
liveupdate_file_ops do.
"""

from __future__ import annotations

import errno
from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterable
from typing import Any, Generic, Protocol, TypeVar

from luod.emulator.model.ports import Errno, HostFile


class Carried(Protocol):
    """The state of one file from the kexec until it is retrieved or finished."""

    def drop(self) -> None:
        """Frees its memory. It is run once at the end of the file's way, perhaps after a retrieve."""
        ...


class Beside(Protocol):
    """Another file of the session in which a file is about to be preserved."""

    @property
    def file(self) -> HostFile: ...

    @property
    def identity(self) -> Hashable: ...

    @property
    def state(self) -> object:
        """Returns what the file's handler keeps of it."""
        ...


State = TypeVar("State")
Record = TypeVar("Record", bound=Carried)


class FileHandler(ABC, Generic[State, Record]):
    """One kind of file. `State` is what it keeps in this kernel, `Record` what the next kernel gets."""

    compatible: str
    """The format of its records. A kernel whose image does not contain the string has no such handler."""
    freezes: bool = False
    """A preserved file's size cannot change, nor can holes be made in it."""

    @abstractmethod
    def can_preserve(self, file: HostFile) -> bool: ...

    @abstractmethod
    def identity(self, file: HostFile) -> Hashable:
        """Returns the identity of the file. Preserving a second file with the same identity fails with EBUSY."""

    @abstractmethod
    def preserve(self, file: HostFile) -> State:
        """Preserves a file. LUO keeps the reference to `file`. Raises Errno, and nothing is preserved then."""

    def preserve_beside(self, file: HostFile, others: Iterable[Beside]) -> State:
        """Preserves a file of a kind that needs some of `others`, the files that are preserved already."""
        return self.preserve(file)

    def unpreserve(self, file: HostFile, state: State) -> None:
        """Undoes `preserve`. LUO closes `file` afterwards."""

    def freeze(self, file: HostFile, state: State) -> None:
        """Freezes the file at the last moment before the kexec. An Errno fails reboot(2)."""

    def freeze_beside(self, file: HostFile, state: State, others: Iterable[Beside]) -> None:
        """Freezes a file of a kind that needs some of `others`, all files of its session."""
        self.freeze(file, state)

    def unfreeze(self, file: HostFile, state: State) -> None:
        """Undoes `freeze`, because a later file could not be frozen."""

    @abstractmethod
    def carry(self, file: HostFile, state: State) -> Record:
        """Returns the record for the next kernel at the kexec.

        Owns `file` from here on: keeps it in the record, or closes it.
        """

    @abstractmethod
    def retrieve(self, record: Record) -> HostFile:
        """Returns the file. It is run once, with either result: an Errno is final. The caller owns the file."""

    takes_target = False
    """Whether RETRIEVE_FD takes an argument that names a file, into which this one is retrieved."""

    def retrieve_into(self, record: Record, target: HostFile | None, *, held: bool) -> HostFile:
        """Retrieves a file as `retrieve` does. `target` is the caller's file in the argument of RETRIEVE_FD, if any.
        `held`: a session of this kernel has it, preserved or retrieved.

        Owns `target` if it succeeds. A `Retryable` leaves the record as it was.
        """
        assert target is None, "it takes none"
        return self.retrieve(record)

    def can_finish(self, record: Record, file: HostFile | None) -> bool:
        """Returns whether FINISH is allowed. `file` is None when it was not retrieved, or could not be."""
        return True

    def finish(self, record: Record, file: HostFile | None) -> None:
        """Ends the file's live update: it belongs to its users alone, or is freed if unretrieved.

        LUO closes `file` afterwards.
        """
        record.drop()


class HandlerTable:
    """The handlers of one boot in the order of their registration, and the files that they hold at present."""

    def __init__(self, handlers: Iterable[FileHandler[Any, Any]]) -> None:
        self._handlers = tuple(handlers)
        self._held: set[Hashable] = set()
        self.frozen: set[Hashable] = set()
        """The files whose size cannot change at present."""

    def choose(self, file: HostFile) -> FileHandler[Any, Any]:
        """Returns the first handler that can preserve `file`. Raises Errno(ENOENT) if none can."""
        for handler in self._handlers:
            if handler.can_preserve(file):
                return handler
        raise Errno(errno.ENOENT)

    def compatible(self, name: str) -> FileHandler[Any, Any] | None:
        return next((handler for handler in self._handlers if handler.compatible == name), None)

    def holds(self, identity: Hashable) -> bool:
        """Returns whether a session of this kernel holds the file."""
        return identity in self._held

    def hold(self, identity: Hashable) -> None:
        """Records a file as held.

        Raises Errno(EBUSY) when a session of this kernel holds it, incoming ones included.
        """
        if identity in self._held:
            raise Errno(errno.EBUSY)
        self._held.add(identity)

    def let_go(self, identity: Hashable) -> None:
        self._held.remove(identity)
