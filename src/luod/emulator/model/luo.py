"""The Live Update Orchestrator of one boot: /dev/liveupdate, the names of both directions, the ioctls, the freeze.

It is bookkeeping over `session.py`. `kernel.py` drives it and knows the time and target of a kexec. The errnos are
those of kernel/liveupdate/luo_core.c, luo_session.c and luo_file.c of Linux 7.3.
"""

from __future__ import annotations

import errno
from collections.abc import Hashable, Set

from luod.emulator.model.caller import Caller
from luod.emulator.model.decode import DEVICE_COMMANDS, Request, decode, refuse_tail, session_commands
from luod.emulator.model.files import DeviceFile, SessionFile
from luod.emulator.model.handler import HandlerTable
from luod.emulator.model.ports import Errno, Host, HostFile
from luod.emulator.model.profile import Features
from luod.emulator.model.results import Blocked
from luod.emulator.model.session import IncomingSession, OutgoingSession, PreservedFile, SessionRecord
from luod.uapi import liveupdate as uapi
from luod.uapi import liveupdate_next

_WORD = 8


class Luo:
    """Owns `carried`: unfinished files go with `close` or `carry`. `features`: those of the kernel."""

    def __init__(
        self, host: Host, handlers: HandlerTable, carried: tuple[SessionRecord, ...], *, features: Features
    ) -> None:
        self._host = host
        self._handlers = handlers
        self._features = features
        self._session_commands = session_commands(features)
        self._device: DeviceFile | None = None
        self._carried = carried
        self._taken_over = False
        self._broken = False
        self._frozen = False
        # Dictionaries keep the order of creation, which is the order of the freeze.
        self._outgoing: dict[bytes, OutgoingSession] = {}
        self._incoming: dict[bytes, IncomingSession] = {}

    def open(self) -> DeviceFile:
        """Opens the device.

        Raises Errno: EBUSY while open; EIO, for good, when the carried state cannot be taken over.
        """
        if self._device is not None:
            raise Errno(errno.EBUSY)
        if not self._taken_over:
            self._take_over()
        if self._broken:
            raise Errno(errno.EIO)
        self._device = DeviceFile()
        return self._device

    def _take_over(self) -> None:
        """Takes the carried sessions over.

        This is at the first open, not at boot: handlers may be registered until then.
        """
        self._taken_over = True
        for record in self._carried:
            try:
                session = IncomingSession(record, self._handlers, all_retrieved=self._features.all_retrieved)
            except KeyError as missing:
                self._host.log(f"luo: No registered handler for compatible '{missing.args[0]}'")
                name = record.name.decode("utf-8", "backslashreplace")
                self._host.log(f"luo: Failed to deserialize files for session [{name}] {-errno.ENOENT}")
                self._broken = True
                return
            self._incoming[record.name] = session

    def release(self, file: DeviceFile | SessionFile) -> None:
        """Releases `file`: its last reference is gone. During a kexec that blocks for ever, so nothing is undone."""
        if isinstance(file, DeviceFile):
            if self._device is file:
                self._device = None
            return
        if self._frozen:
            return
        session = file.session
        if isinstance(session, OutgoingSession):
            if session.frozen:
                session.unfreeze()
            session.undo()
            del self._outgoing[session.name]
            return
        try:
            session.finish()
        except Errno:
            # It stays in the list as retrieved and cannot be retrieved again in this boot (luo_session_release).
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
        elif request.number == liveupdate_next.LIVEUPDATE_SESSION_FREEZE:
            self._freeze(request, session)
        else:
            _unpreserve(request, session)
        return 0

    def _create(self, request: Request) -> int | Blocked:
        """Creates a session. Raises Errno: EMFILE, EINVAL, EEXIST, and EFAULT with the creation undone."""
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
        file = SessionFile(session)
        try:
            request.answerable()
            fd = request.caller.install(file, True)
        except Errno:
            self.release(file)  # its last close
            raise
        request.answer({1: fd})
        return 0

    def _retrieve_session(self, request: Request) -> int | Blocked:
        """Retrieves a session.

        Raises Errno: EMFILE, ENOENT, EINVAL when it is retrieved already, ENFILE and ENOMEM of the host, and EFAULT,
        which finishes the session: it is lost.
        """
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
        file = SessionFile(session)
        try:
            request.answerable()
        except Errno:
            self.release(file)
            raise
        try:
            fd = request.caller.install(file, True)
        except Errno:
            session.retrieved = False
            raise
        request.answer({1: fd})
        return 0

    @property
    def frozen_files(self) -> Set[Hashable]:
        """Returns the identities of the preserved files whose size cannot change."""
        return self._handlers.frozen

    def freeze(self) -> None:
        """Freezes every file, or raises Errno with everything as before (luo_session_serialize).

        A session that was frozen by FREEZE is left as it is, with either result.
        """
        done: list[OutgoingSession] = []
        for session in self._outgoing.values():
            if session.frozen:
                continue
            try:
                session.freeze(self._log_refused_freeze)
            except Errno:
                for earlier in reversed(done):
                    earlier.unfreeze()
                raise
            done.append(session)
        self._frozen = True

    def _freeze(self, request: Request, session: OutgoingSession) -> None:
        """Freezes one session for good. Raises Errno: EINVAL reserved, EBUSY frozen, and that of a handler."""
        if request.integer(1):
            raise Errno(errno.EINVAL)
        if session.frozen:
            raise Errno(errno.EBUSY)
        session.freeze(self._log_refused_freeze)
        request.answer()

    def _log_refused_freeze(self, refused: PreservedFile, failure: Errno) -> None:
        self._host.log(
            f"luo: Freeze failed for token[{refused.token:#x}] "
            f"handler[{refused.handler.compatible}] err[{-failure.code}]"
        )

    def carry(self) -> tuple[SessionRecord, ...]:
        """Returns the records for the next kernel, which the caller owns, and drops everything else.

        Once, after `freeze`.
        """
        records = tuple(session.carry() for session in self._outgoing.values())
        self._outgoing.clear()
        self.close()
        return records

    def close(self) -> None:
        """Drops everything that this kernel holds. Idempotent."""
        for outgoing in self._outgoing.values():
            outgoing.undo()
        for incoming in self._incoming.values():
            incoming.abandon()
        # Also those not taken over, because the device was never opened or its takeover failed.
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
    """Preserves a file. EFAULT on the answer leaves it preserved."""
    session.preserve(
        request.integer(2), lambda: request.caller.file(request.integer(1)), argument=_argument(request) != 0
    )
    request.answer()


def _unpreserve(request: Request, session: OutgoingSession) -> None:
    """Stops preserving a file (profile `document`). Raises Errno: EINVAL reserved, ENOENT unknown token."""
    if request.integer(1):
        raise Errno(errno.EINVAL)
    session.unpreserve(request.integer(2))
    request.answer()


def _retrieve(request: Request, session: IncomingSession) -> None:
    """Retrieves a file. EMFILE precedes all else. On EFAULT the file stays retrieved; the call can be repeated."""
    _need_fd(request.caller)
    argument = _argument(request)
    file = session.retrieve(request.integer(2), (lambda: _target(request.caller, argument)) if argument else None)
    request.caller.adopt(file)
    request.answerable()
    request.answer({1: request.caller.install(file, True)})


def _target(caller: Caller, address: int) -> HostFile:
    """Returns the file in the argument of RETRIEVE_FD. Raises Errno: EFAULT, EINVAL, E2BIG, EBADF."""
    layout = liveupdate_next.MEMFD_RETRIEVE_ARG
    size = int.from_bytes(caller.read(address, 4), "little")
    if size < layout.size:
        raise Errno(errno.EINVAL)
    refuse_tail(address + layout.size, address + size, caller)
    return caller.file(layout.unpack(caller.read(address, layout.size))[1])


def _argument(request: Request) -> int:
    """Returns the argument for the handler, an address, or 0."""
    return request.integer(3) if len(request.values) > 3 else 0


def _finish(request: Request, session: IncomingSession) -> None:
    """Finishes a session. Raises Errno: EINVAL reserved, EBUSY, and EFAULT on the answer, with the session finished."""
    if request.integer(1):
        raise Errno(errno.EINVAL)
    session.finish()
    request.answer()


def _get_name(request: Request, name: bytes) -> None:
    """Writes the name, its NUL, and zeros up to the next word. The rest of the field keeps the caller's bytes."""
    if request.integer(1):
        raise Errno(errno.EINVAL)
    written = name + bytes(_WORD - len(name) % _WORD)
    request.answer({2: written + request.text(2)[len(written) :]})
