"""How a command enters an emulated host: a message with the caller's three standard files, on a UNIX socket.

The command writes to these files itself, so nothing is copied, and its status comes back as the answer. If the host
jumps or ends meanwhile, the connection ends without an answer. It imports nothing of the house: `luod.fleet.ssh` runs
it for each command of Ansible.
"""

from __future__ import annotations

import array
import contextlib
import json
import os
import socket
from collections.abc import Iterator

_MOST = 1 << 20
_FILES = 3


def run(path: str, command: str, files: tuple[int, int, int], timeout: float | None = None) -> int | None:
    """Runs a shell command in the host at `path`, with these fds as its standard files. The caller keeps the fds.

    Returns the exit status, None if the host ended or jumped first. Raises OSError: the host cannot be reached, or (as
    TimeoutError) the command takes longer than `timeout` seconds.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        connection.settimeout(timeout)
        connection.connect(path)
        socket.send_fds(connection, [command.encode("utf-8", "surrogateescape")], list(files))
        try:
            answer = connection.recv(64)
        except ConnectionResetError:
            return None
        return int(answer) if answer else None


@contextlib.contextmanager
def listening(path: str) -> Iterator[socket.socket]:
    """Yields the socket of a host, in place of one of an earlier boot."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(path)
        listener.listen(64)
        yield listener


def receive(connection: socket.socket) -> tuple[str, list[int]] | None:
    """Returns the command and its files, which the caller owns; None: the peer has hung up, or sent something else."""
    text, ancillary, _flags, _address = connection.recvmsg(_MOST, socket.CMSG_SPACE(_FILES * 4))
    files = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            files.frombytes(data[: len(data) - len(data) % files.itemsize])
    if len(files) == _FILES and text:
        return text.decode("utf-8", "surrogateescape"), list(files)
    for file in files:
        os.close(file)
    return None


def answer(connection: socket.socket, status: int) -> None:
    """Sends the exit status. The peer may have hung up."""
    with contextlib.suppress(OSError):
        connection.send(json.dumps(status).encode())
