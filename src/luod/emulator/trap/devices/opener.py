"""Gives the supervisor open files of its own FUSE file system: a process of the machine opens them and sends them.

The supervisor may not open them: it is outside of the machine's user namespace, and could not answer its own request.
The file system is mounted nowhere. `serve` has its directory, already unmounted, so no other process can open its
files.
"""

from __future__ import annotations

import errno
import os
import select
import socket
from collections.abc import Callable, Sequence

from luod.emulator.model.ports import Errno
from luod.linux import Fd, HasFileno

_MAX_NAME = 255
_CLOSED = b"closed"


def serve(requests: socket.socket, directory: Fd, until: Sequence[HasFileno]) -> None:
    """Opens the requested names in `directory` until one of `until` is readable. Runs in the machine's namespaces."""
    poll = select.poll()
    for file in (requests, *until):
        poll.register(file, select.POLLIN)
    ends = {file.fileno() for file in until}
    while ends.isdisjoint(ready := dict(poll.poll())):
        if requests.fileno() not in ready:
            continue
        name = requests.recv(_MAX_NAME)
        if not name:
            poll.unregister(requests)
            continue
        try:
            file = Fd(os.open(name, os.O_RDWR | os.O_CLOEXEC, dir_fd=directory.fileno()))
        except OSError as error:
            requests.send((error.errno or errno.EIO).to_bytes(4, "little"))
            continue
        with file:
            socket.send_fds(requests, [bytes(4)], [file.fileno()])
        requests.send(_CLOSED)


def open_file(requests: socket.socket, name: bytes, fuse: int, answer: Callable[[], None]) -> Fd:
    """Returns an open file of the file system behind `fuse`. Raises Errno.

    Runs `answer` when the file system sends a request meanwhile.
    """
    requests.send(name)
    poll = select.poll()
    poll.register(requests, select.POLLIN)
    poll.register(fuse, select.POLLIN)
    while requests.fileno() not in dict(poll.poll()):
        answer()
    code, numbers, _, _ = socket.recv_fds(requests, 4, 1)
    failure = int.from_bytes(code, "little")
    if failure or not code:
        # End of file: the process is gone, and the machine with it.
        raise Errno(failure or errno.ENFILE)
    # As long as the other fd is open, a process that gets this one could close it and find the file still open.
    requests.recv(len(_CLOSED))
    if not numbers:  # this process has no fd left
        raise Errno(errno.ENFILE)
    os.set_inheritable(numbers[0], False)
    return Fd(numbers[0])
