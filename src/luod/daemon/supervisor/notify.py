"""sd_notify(3): READY=1 to the socket $NOTIFY_SOCKET. A notification that fails is never an error of luod.

Standard library only.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket

from luod.frozen import frozen

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

_SECONDS: Final = 1.0
"""For each attempt: a reader of the socket must not block the keeper."""
_VSOCK: Final = re.compile(r"vsock(?:-(stream|dgram|seqpacket))?:([0-9]+):([0-9]+)", re.ASCII)
_KINDS: Final = {"stream": socket.SOCK_STREAM, "dgram": socket.SOCK_DGRAM, "seqpacket": socket.SOCK_SEQPACKET}
_KIND_ORDER: Final = ("seqpacket", "stream", "dgram")
"""The order in which kinds of AF_VSOCK sockets are tried if the address has no kind: hypervisors support different
ones.
"""
_MOST: Final = 2**32 - 1


@frozen
class Address:
    family: int
    kinds: tuple[int, ...]
    address: str | tuple[int, int]


def parse(text: str) -> Address:
    """Returns the address in $NOTIFY_SOCKET: an absolute path, @ABSTRACT, or vsock[-KIND]:CID:PORT.

    Raises ValueError.
    """
    if text.startswith("/") and len(text) > 1:
        return Address(socket.AF_UNIX, (socket.SOCK_DGRAM,), text)
    if text.startswith("@") and len(text) > 1:
        return Address(socket.AF_UNIX, (socket.SOCK_DGRAM,), "\0" + text[1:])
    if found := _VSOCK.fullmatch(text):
        cid, port = int(found[2]), int(found[3])
        if cid <= _MOST and port <= _MOST:
            names = _KIND_ORDER if found[1] is None else (found[1],)
            return Address(socket.AF_VSOCK, tuple(_KINDS[name] for name in names), (cid, port))
    raise ValueError("it is not an absolute path, @NAME or vsock:CID:PORT")


def ready() -> str | None:
    """Sends READY=1 if $NOTIFY_SOCKET is set, and unsets it. Returns the reason of a failure, None without one."""
    text = os.environ.pop("NOTIFY_SOCKET", "")
    if not text:
        return None
    try:
        address = parse(text)
    except ValueError as error:
        return str(error)
    reason = ""
    for kind in address.kinds:
        try:
            _send(address, kind)
        except (OSError, ValueError) as error:  # ValueError: a NUL in a path
            reason = (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
        else:
            return None
    return reason


def _send(address: Address, kind: int) -> None:
    with socket.socket(address.family, kind | socket.SOCK_CLOEXEC) as notify:
        notify.settimeout(_SECONDS)
        notify.connect(address.address)
        notify.sendall(b"READY=1")
        if address.family == socket.AF_VSOCK and kind != socket.SOCK_DGRAM:
            # The other side reads to the end; an immediate close may drop the data.
            with contextlib.suppress(OSError):
                notify.shutdown(socket.SHUT_WR)
                notify.recv(1)
