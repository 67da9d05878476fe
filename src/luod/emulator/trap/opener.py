"""How the supervisor comes by open files of its own FUSE: a process of the machine opens them and sends them.

The supervisor may not, outside of the machine's user namespace, and while it waited nobody would answer. The file
system is mounted nowhere: `serve` has its directory, unmounted again, so nobody else can open what is in it.
"""

from __future__ import annotations

import errno
import os
import select
import socket

from luod.emulator.model.ports import Errno
from luod.emulator.trap.fuse import FuseServer
from luod.linux import Fd

_MAX_NAME = 255


def serve(requests: socket.socket, directory: Fd, until: Fd) -> None:
    """Opens what is asked for in `directory` until `until` is readable. Runs in the machine's namespaces."""
    poll = select.poll()
    poll.register(requests, select.POLLIN)
    poll.register(until.fileno(), select.POLLIN)
    while until.fileno() not in (ready := dict(poll.poll())):
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


def open_file(requests: socket.socket, name: bytes, server: FuseServer) -> Fd:
    """An open file of `server`'s, which answers the opening meanwhile. Errno."""
    requests.send(name)
    poll = select.poll()
    poll.register(requests, select.POLLIN)
    poll.register(server.fileno(), select.POLLIN)
    while requests.fileno() not in dict(poll.poll()):
        server.serve()
    code, numbers, _, _ = socket.recv_fds(requests, 4, 1)
    if not numbers:
        # Nothing at all: the process is gone, and the machine with it.
        raise Errno(int.from_bytes(code, "little") or errno.ENFILE)
    os.set_inheritable(numbers[0], False)
    return Fd(numbers[0])
