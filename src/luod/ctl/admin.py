"""`io.luod.Admin` from luoctl's side: what is asked on the admin socket, and the answers as types.

Called by `luod.ctl.commands`. How bytes and fds travel is `luod.ipc.connection`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from luod.errors import ProtocolError
from luod.ipc.connection import TIMEOUT, Connection
from luod.ipc.framing import ADMIN, ADMIN_SOCKET, Reply, encode_call
from luod.linux import Fd

T = TypeVar("T", str, int, bool)

LOAD_TIMEOUT = 120.0
"""Seconds LoadKernel may take: the kernel copies image and initrd, and checks a signature where it must."""


@dataclass(frozen=True)
class Status:
    """What luod says of itself. `boot` is the live updates it has seen plus one; `command_line` the loaded kernel's.

    `sessions` counts the outgoing sessions, `waiting` and `retrieved` the incoming ones by state.
    """

    version: str
    state: str
    boot: int
    kernel_loaded: bool
    command_line: str | None
    sessions: int
    waiting: int
    retrieved: int


def status(path: str | None) -> Status:
    """Asks luod at the admin socket `path`, None for the usual one. Errors of `Connection.ask`, as below."""
    with _connect(path, TIMEOUT) as connection:
        reply = connection.ask(encode_call(f"{ADMIN}.Status"))
        try:
            return Status(
                version=_member(reply, "version", str),
                state=_member(reply, "state", str),
                boot=_member(reply, "boot", int),
                kernel_loaded=_member(reply, "kernelLoaded", bool),
                command_line=_optional(reply, "commandLine", str),
                sessions=_member(reply, "sessions", int),
                waiting=_member(reply, "waiting", int),
                retrieved=_member(reply, "retrieved", int),
            )
        finally:
            reply.close()


def load_kernel(path: str | None, kernel: Fd, initrd: Fd | None, command_line: str) -> None:
    """Has luod load an image. The files stay the caller's."""
    parameters: dict[str, Any] = {"kernelFileDescriptor": 0, "commandLine": command_line}
    fds = [kernel.fileno()]
    if initrd is not None:
        parameters["initrdFileDescriptor"] = len(fds)
        fds.append(initrd.fileno())
    with _connect(path, LOAD_TIMEOUT) as connection:
        connection.ask(encode_call(f"{ADMIN}.LoadKernel", parameters), fds).close()


def update(path: str | None) -> Iterator[str]:
    """Has luod jump, and yields the states of the update as they are reached. It takes as long as it takes: luod keeps
    the deadlines.
    """
    with _connect(path, TIMEOUT) as connection:
        for reply in connection.follow(encode_call(f"{ADMIN}.Update", more=True)):
            yield _member(reply, "state", str)


def _connect(path: str | None, timeout: float) -> Connection:
    return Connection(ADMIN_SOCKET if path is None else path, timeout=timeout)


def _member(reply: Reply, name: str, kind: type[T]) -> T:
    value = reply.parameters.get(name)
    if type(value) is not kind:
        raise ProtocolError(f"luod's answer has no {kind.__name__} {name!r}")
    return value


def _optional(reply: Reply, name: str, kind: type[T]) -> T | None:
    return None if reply.parameters.get(name) is None else _member(reply, name, kind)
