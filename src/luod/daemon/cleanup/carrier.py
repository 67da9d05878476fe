"""`python -m luod.daemon.cleanup.carrier`: carries the files of one incoming session into an outgoing one.

`luod.daemon.cleanup.carry_over` starts it, as a process of its own that may be killed at any point. A file cannot be
preserved before the session it came in is finished (docs/hazards.md, H11), and from then on it lives by its fds alone.
So before FINISH the files are put in the queues of sockets, with their tokens and names, and the supervisor holds
those; luod confirms it on the control socket. A carrier that follows a killed one gets the sockets instead, and
continues there: it reads the queues without taking files out.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from array import array
from collections.abc import Iterable, Sequence

from luod import memory
from luod.daemon import memory_grants
from luod.daemon.cleanup.worker import SESSION_FD, SESSION_NAME, admitted, refuse
from luod.errors import ContentsUnknown, LuodError, MemoryUnknown, NoSuchToken, Refused
from luod.frozen import frozen
from luod.linux import Fd
from luod.liveupdate import IncomingSession, OutgoingSession
from luod.manifest import Entry
from luod.static import Final

OUTGOING_FD: Final = "LUOD_OUTGOING_FD"
CONTROL_FD: Final = "LUOD_CONTROL_FD"
CARRIED_FD: Final = "LUOD_CARRIED_FD_"
"""Before a number, from 0 on."""
GO: Final = b"go"

_FILES_A_SOCKET: Final = 64
MOST_SOCKETS: Final = 250
"""The kernel allows 253 fds in one message."""
_MESSAGE_BYTES: Final = 128 * 1024
_MEMFD: Final = "memfd"
_READABLE: Final = "mount /proc and the cgroup file system where luod can read them; the session is kept"


@frozen
class File:
    """Owns the fd."""

    token: int
    name: str | None
    fd: Fd


def _forwardable(contents: tuple[Entry, ...] | None, name: str) -> tuple[Entry, ...]:
    if contents is None:
        raise ContentsUnknown(
            f"session {name!r} has no manifest, so its tokens are not known",
            hint="only the program that preserved its files can retrieve them",
        )
    for entry in contents:
        if entry.kind != _MEMFD:
            raise Refused(
                f"session {name!r} holds a {entry.kind} under token {entry.token}, and only memory can be carried over",
                hint="let its VMM retrieve it, or run `luoctl discard`",
            )
    if len(contents) > _FILES_A_SOCKET * MOST_SOCKETS:
        raise Refused(f"session {name!r} holds {len(contents)} files, too many to carry over")
    try:
        memory.require(sum(entry.size for entry in contents), memory.chargeable(), f"retrieving session {name!r}")
    except MemoryUnknown as error:
        raise MemoryUnknown(error.message, needed=error.needed, why=error.why, hint=_READABLE) from None
    memory_grants.require(contents, os.getpid(), name)
    return contents


def held(sockets: int) -> bytes:
    """Returns the word with which the carrier sends so many sockets: some of them may be lost on the way."""
    return b"held %d" % sockets


def _retrieve(session: IncomingSession, contents: Iterable[Entry]) -> list[File]:
    files = []
    for entry in contents:
        try:
            files.append(File(entry.token, entry.name, session.retrieve(entry.token)))
        except NoSuchToken:
            continue  # it was recorded before it was preserved, and then was not
    return files


def pack(files: Sequence[File]) -> list[socket.socket]:
    """Returns sockets with the files in their queues, which keeps the files alive."""
    packed = []
    begins = range(0, len(files), _FILES_A_SOCKET)
    for begin in begins:
        some = files[begin : begin + _FILES_A_SOCKET]
        writer, reader = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with writer:
            words = json.dumps((len(begins), [(file.token, file.name) for file in some])).encode()
            socket.send_fds(writer, [words], [file.fd.fileno() for file in some])
        packed.append(reader)
    return packed


def look_into(packed: Sequence[socket.socket], name: str) -> list[File]:
    """Returns the files in the queues. Raises Refused: sockets are missing, so the session would not be complete."""
    files = []
    for reader in packed:
        room = socket.CMSG_LEN(_FILES_A_SOCKET * 4)
        flags = socket.MSG_PEEK | socket.MSG_CMSG_CLOEXEC
        words, control, _flags, _address = reader.recvmsg(_MESSAGE_BYTES, room, flags)
        fds = array("i")
        for _level, _type, data in control:
            fds.frombytes(data)
        sockets, entries = json.loads(words)
        if sockets != len(packed):
            for fd in fds:
                os.close(fd)
            raise Refused(
                f"luod has {len(packed)} of the {sockets} sockets with the files of session {name!r}",
                hint="the others are lost; `luoctl discard` frees what is left",
            )
        files += [File(token, label, Fd(fd)) for (token, label), fd in zip(entries, fds, strict=True)]
    return files


def _preserve(session: OutgoingSession, files: Iterable[File]) -> None:
    for file in files:
        # A file that returned sealed the first time does so again.
        session.preserve(file.fd, file.token, name=file.name, allow_sealed=True)
        file.fd.close()


def _fd(name: str) -> int:
    return int(os.environ[name])


def main() -> int:
    if not admitted():
        return 1
    name = os.environ[SESSION_NAME]
    packed: list[socket.socket] = []
    while f"{CARRIED_FD}{len(packed)}" in os.environ:
        packed.append(socket.socket(fileno=_fd(f"{CARRIED_FD}{len(packed)}")))
    with (
        IncomingSession(Fd(_fd(SESSION_FD))) as incoming,
        OutgoingSession(Fd(_fd(OUTGOING_FD))) as outgoing,
        socket.socket(fileno=_fd(CONTROL_FD)) as control,
    ):
        try:
            files = look_into(packed, name) if packed else _retrieve(incoming, _forwardable(incoming.contents, name))
        except LuodError as error:
            return refuse(error)
        if not packed:
            packed = pack(files)
            socket.send_fds(control, [held(len(packed))], [reader.fileno() for reader in packed])
            if control.recv(16) != GO:
                return 1
        try:
            incoming.finish(discard=True)
            _preserve(outgoing, files)
        except LuodError as error:
            print(error)
            return 1
    print(f"files carried over: {len(files)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
