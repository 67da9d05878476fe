"""The Live Update Orchestrator of one boot: /dev/liveupdate, the names of both directions, the ioctls, the freeze.

Pure bookkeeping over `session.py`. Driven by `kernel.py`, which knows when a machine jumps and into what.
"""

from __future__ import annotations

import errno

from luod.emulator.model.caller import Caller
from luod.emulator.model.decode import (
    DEVICE_COMMANDS,
    DOCUMENT_SESSION_COMMANDS,
    SESSION_COMMANDS,
    Request,
    decode,
)
from luod.emulator.model.files import DeviceFile, SessionFile
from luod.emulator.model.handler import HandlerTable
from luod.emulator.model.ports import Errno, Host
from luod.emulator.model.results import Blocked
from luod.emulator.model.session import IncomingSession, OutgoingSession, PreservedFile, SessionRecord
from luod.uapi import liveupdate as uapi

_NAME_LENGTH = uapi.LIVEUPDATE_SESSION_NAME_LENGTH
_WORD = 8


class Luo:
    """`carried` is owned: what is not finished goes with `close` or `carry`. `document`: the profile of that name."""

    def __init__(
        self, host: Host, handlers: HandlerTable, carried: tuple[SessionRecord, ...], *, document: bool
    ) -> None:
        self._host = host
        self._handlers = handlers
        self._document = document
        self._session_commands = DOCUMENT_SESSION_COMMANDS if document else SESSION_COMMANDS
        self._device: DeviceFile | None = None
        self._carried = carried
        self._taken_over = False
        self._broken = False
        self._frozen = False
        # Dictionaries keep the order of creation, which is the order of the freeze.
        self._outgoing: dict[bytes, OutgoingSession] = {}
        self._incoming: dict[bytes, IncomingSession] = {}

    def open(self) -> DeviceFile:
        """EBUSY while open; EIO, now and ever after, when what was carried cannot be taken over."""
        if self._device is not None:
            raise Errno(errno.EBUSY)
        if not self._taken_over:
            self._take_over()
        if self._broken:
            raise Errno(errno.EIO)
        self._device = DeviceFile()
        return self._device

    def _take_over(self) -> None:
        """At the first open, not at boot: a handler may be registered until then."""
        self._taken_over = True
        for record in self._carried:
            try:
                session = IncomingSession(record, self._handlers, all_retrieved=self._document)
            except KeyError as missing:
                self._host.log(f"luo: No registered handler for compatible '{missing.args[0]}'")
                name = record.name.decode("utf-8", "backslashreplace")
                self._host.log(f"luo: Failed to deserialize files for session [{name}] {-errno.ENOENT}")
                self._broken = True
                return
            self._incoming[record.name] = session

    def release(self, file: DeviceFile | SessionFile) -> None:
        """The last reference to `file` is gone. While the machine jumps that waits for ever, so nothing is undone."""
        if isinstance(file, DeviceFile):
            if self._device is file:
                self._device = None
            return
        if self._frozen:
            return
        session = file.session
        if isinstance(session, OutgoingSession):
            session.undo()
            del self._outgoing[session.name]
            return
        try:
            session.finish()
        except Errno:
            # It stays in the list as retrieved, out of reach for the rest of this boot (A.6).
            name = session.name.decode("utf-8", "backslashreplace")
            self._host.log(f"luo: Unable to finish session [{name}] on release")
        else:
            del self._incoming[session.name]

    def ioctl(self, file: DeviceFile | SessionFile, number: int, argument: int, caller: Caller) -> int | Blocked:
        if isinstance(file, DeviceFile):
            request = decode(DEVICE_COMMANDS, number, argument, caller)
            if request.number == uapi.LIVEUPDATE_IOCTL_CREATE_SESSION:
                return self._create(request)
            return self._retrieve_session(request)
        session = file.session
        request = decode(self._session_commands, number, argument, caller, session.direction)
        if self._frozen:
            return Blocked()
        if request.number == uapi.LIVEUPDATE_SESSION_GET_NAME:
            _get_name(request, session.name)
        elif isinstance(session, IncomingSession):
            if request.number == uapi.LIVEUPDATE_SESSION_RETRIEVE_FD:
                _retrieve(request, session)
            else:
                _finish(request, session)
        elif request.number == uapi.LIVEUPDATE_SESSION_PRESERVE_FD:
            _preserve(request, session)
        else:
            _unpreserve(request, session)
        return 0

    def _create(self, request: Request) -> int | Blocked:
        """EMFILE, EINVAL, EEXIST, and EFAULT with the creation undone."""
        _need_fd(request.caller)
        name, end, _ = request.text(2).partition(b"\0")
        if not name or not end:
            raise Errno(errno.EINVAL)
        if self._frozen:
            return Blocked()
        if name in self._outgoing:
            raise Errno(errno.EEXIST)
        session = OutgoingSession(name, self._handlers)
        self._outgoing[name] = session
        self._give_out(request, session)
        return 0

    def _retrieve_session(self, request: Request) -> int | Blocked:
        """EMFILE, ENOENT, EINVAL when retrieved already, and EFAULT, which finishes the session: it is lost."""
        _need_fd(request.caller)
        if self._frozen:
            return Blocked()
        # 64 bytes without NUL match nothing: no name is that long.
        session = self._incoming.get(request.text(2).partition(b"\0")[0])
        if session is None:
            raise Errno(errno.ENOENT)
        if session.retrieved:
            raise Errno(errno.EINVAL)
        session.retrieved = True
        self._give_out(request, session)
        return 0

    def _give_out(self, request: Request, session: OutgoingSession | IncomingSession) -> None:
        """The new file's fd goes to the caller; where that fails the file is dropped, which is its last close."""
        file = SessionFile(session)
        try:
            request.answerable()
            fd = request.caller.install(file, True)
        except Errno:
            self.release(file)
            raise
        request.answer({1: fd})

    def freeze(self) -> None:
        """Everything is ready to be carried, or an Errno and everything is as before (A.11)."""
        done: list[OutgoingSession] = []
        for session in self._outgoing.values():
            frozen: list[PreservedFile] = []
            for preserved in session:
                try:
                    preserved.handler.freeze(preserved.file, preserved.state)
                except Errno as failure:
                    self._host.log(
                        f"luo: Freeze failed for token[{preserved.token:#x}] "
                        f"handler[{preserved.handler.compatible}] err[{-failure.code}]"
                    )
                    for file in (*frozen, *(file for earlier in reversed(done) for file in earlier)):
                        file.handler.unfreeze(file.file, file.state)
                    raise
                frozen.append(preserved)
            done.append(session)
        self._frozen = True

    def carry(self) -> tuple[SessionRecord, ...]:
        """What the next kernel finds, owned by the caller; everything else is let go. Once, after `freeze`."""
        records = tuple(session.carry() for session in self._outgoing.values())
        self._outgoing.clear()
        self.close()
        return records

    def close(self) -> None:
        """This kernel is gone, with all it held. May be called twice."""
        for outgoing in self._outgoing.values():
            outgoing.undo()
        for incoming in self._incoming.values():
            incoming.abandon()
        # Also those nobody took over, because the device was never opened or is broken.
        for record in self._carried:
            record.drop()
        self._outgoing.clear()
        self._incoming.clear()
        self._carried = ()
        self._frozen = True


def _need_fd(caller: Caller) -> None:
    if not caller.has_free_fd():
        raise Errno(errno.EMFILE)


def _preserve(request: Request, session: OutgoingSession) -> None:
    """EFAULT on the answer leaves the file preserved."""
    session.preserve(request.integer(2), lambda: request.caller.file(request.integer(1)))
    request.answer()


def _unpreserve(request: Request, session: OutgoingSession) -> None:
    """Profile `document`: EINVAL reserved, ENOENT unknown token."""
    if request.integer(1):
        raise Errno(errno.EINVAL)
    session.unpreserve(request.integer(2))
    request.answer()


def _retrieve(request: Request, session: IncomingSession) -> None:
    """EMFILE before all else; on EFAULT the file stays retrieved and can be had again."""
    _need_fd(request.caller)
    file = session.retrieve(request.integer(2))
    request.caller.adopt(file)
    request.answerable()
    request.answer({1: request.caller.install(file, True)})


def _finish(request: Request, session: IncomingSession) -> None:
    """EINVAL reserved, EBUSY; EFAULT on the answer, and it is finished nonetheless."""
    if request.integer(1):
        raise Errno(errno.EINVAL)
    session.finish()
    request.answer()


def _get_name(request: Request, name: bytes) -> None:
    """The name, its NUL, and zeros up to the next word: the rest of the field keeps what the caller had there."""
    if request.integer(1):
        raise Errno(errno.EINVAL)
    written = name + bytes(_WORD - len(name) % _WORD)
    request.answer({2: written + request.text(2)[len(written) : _NAME_LENGTH]})
