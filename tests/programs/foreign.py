"""A hostile client that passes luod files whose close blocks: `python3 -m tests.programs.foreign SOCKET`.

    {"prepare": DIRECTORY}                      ->   {}    as root: the loopback interface, /dev/fuse
    {"linger": HOW, "seconds": 100}             ->   {}    a TCP socket with unsent data that lingers when it is closed
    {"fuse": DIRECTORY, "method": METHOD}       ->   {}    a file of a FUSE server that never answers again
    {"half": 100}                               ->   {}    on each of 100 connections, half a message with 16 files
    {"release": true}                           ->   {}    the FUSE server ends

An answer says that luod has the file, and that this process does not. Standard library only.
"""

from __future__ import annotations

import array
import contextlib
import ctypes
import fcntl
import json
import os
import socket
import struct
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

LIST = b'{"method":"io.luod.Sessions.List","parameters":{}}\0'
FOLLOW = b'{"method":"io.luod.Updates.Follow","more":true,"parameters":{"name":"bystander"}}\0'
CLONE_NEWNS, CLONE_NEWUSER = 0x20000, 0x10000000
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1
_FUSE = os.makedev(10, 229)
_LOOKUP, _FORGET, _GETATTR, _OPEN, _INIT, _INTERRUPT = 1, 2, 3, 14, 26, 36
_DIRECTORY, _FILE = 0o40755, 0o100644


def connect(path: str) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.connect(path)
    return connection


def send(connection: socket.socket, text: bytes, fds: Sequence[int], flags: int = 0) -> None:
    connection.sendmsg([text], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))], flags)


def prepare(directory: Path) -> None:
    with socket.socket() as any_socket:
        request = struct.pack("16sh14x", b"lo", 0)
        flags = struct.unpack("16sh14x", fcntl.ioctl(any_socket, _SIOCGIFFLAGS, request))[1]
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", flags | _IFF_UP))
    (directory / "mount").mkdir(parents=True)
    directory.chmod(0o755)
    (directory / "mount").chmod(0o777)
    os.mknod(directory / "fuse", 0o20666, _FUSE)
    (directory / "fuse").chmod(0o666)


class Lingering:
    """A TCP socket of which the other end reads nothing, and never closes."""

    def __init__(self, seconds: int) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2304)
            self.socket = socket.create_connection(server.getsockname())
            self._other, _ = server.accept()
        self.socket.setblocking(False)
        try:
            while True:
                self.socket.send(b"x" * 65536)
        except BlockingIOError:
            pass
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, seconds))

    def fileno(self) -> int:
        return self.socket.fileno()

    def let_go(self) -> None:
        """Drops this process's reference, which may be the last, and does not linger: a process that ends does not."""
        ours, theirs = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(theirs)
            os.read(ours, 1)
            os._exit(0)
        self.socket.close()
        os.close(ours)
        os.close(theirs)
        os.waitpid(child, 0)


class Attacker:
    def __init__(self, path: str) -> None:
        self._path = path
        self._kept: list[Any] = []
        self._server = 0

    def linger(self, how: str, seconds: int) -> None:
        file = Lingering(seconds)
        self._kept.append(file)
        connection = connect(self._path)
        if how == "a message":
            send(connection, LIST, [file.fileno()])
            self._kept.append(connection)
        elif how == "with memory":
            memory = os.memfd_create("memory")
            send(connection, LIST, [memory, file.fileno(), memory])
            os.close(memory)
            self._kept.append(connection)
        elif how == "half a message":
            send(connection, LIST[:10], [file.fileno()])
        elif how == "behind a call":
            connection.sendall(FOLLOW)
            connection.recv(4096)
            send(connection, LIST, [file.fileno()])
        elif how == "out of band":
            send(connection, b"x", [file.fileno()], socket.MSG_OOB)
            connection.sendall(LIST)
            self._kept.append(connection)
        elif how == "sockets in sockets":
            self._send_deep(connection, file)
        elif how == "one connection too many":
            self._kept += [connect(self._path) for _ in range(200)]
            for _ in range(20):
                refused = connect(self._path)
                with contextlib.suppress(BrokenPipeError):
                    send(refused, LIST, [file.fileno()])
                self._kept.append(refused)
        elif how == "not accepted":
            send(connection, LIST, [file.fileno()])
            self._kept.append(connection)
        else:
            raise ValueError(how)
        file.let_go()

    def begin_messages(self, connections: int) -> None:
        """Begins messages with 16 files each, all of one memfd."""
        memory = os.memfd_create("memory")
        for _ in range(connections):
            connection = connect(self._path)
            send(connection, LIST[:10], [memory] * 16)
            self._kept.append(connection)
        os.close(memory)

    def _send_deep(self, connection: socket.socket, file: Lingering) -> None:
        number = os.dup(file.fileno())
        for _ in range(4):
            one, other = socket.socketpair()
            send(one, b"x", [number])
            os.close(number)
            one.close()
            number = other.detach()
        try:
            send(connection, LIST, [number])
        finally:
            os.close(number)

    def fuse(self, directory: Path, method: str) -> None:
        file, self._server = silent_file(directory / "fuse", directory / "mount")
        connection = connect(self._path)
        call = {
            "method": method,
            "parameters": {"name": "x", "manifest_fd": 0} if "Create" in method else {},
        }
        send(connection, json.dumps(call).encode() + b"\0", [file])
        self._kept += [connection, file]  # to close it here would block here

    def release(self) -> None:
        if self._server:
            os.kill(self._server, 9)
            os.waitpid(self._server, 0)


def silent_file(device_path: Path, place: Path) -> tuple[int, int]:
    """Mounts a FUSE file system in namespaces of its own. Returns a file of it, and the pid of its server.

    From then on the server answers nothing. OSError.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    uid, gid = os.getuid(), os.getgid()
    libc.prctl(4, 1, 0, 0, 0)  # dumpable, or its own /proc/self/uid_map is root's
    if libc.unshare(CLONE_NEWUSER | CLONE_NEWNS):
        raise OSError(ctypes.get_errno(), "unshare")
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
    Path("/proc/self/gid_map").write_text(f"0 {gid} 1")
    device = os.open(device_path, os.O_RDWR)
    options = f"fd={device},rootmode=40000,user_id=0,group_id=0,allow_other"
    if libc.mount(b"x", os.fsencode(place), b"fuse", 0, options.encode()):
        raise OSError(ctypes.get_errno(), "mount")
    server = os.fork()
    if server == 0:
        serve(device)
    # Or the file would keep its own server's connection open, and neither could ever end.
    os.close(device)
    return os.open(place / "f", os.O_RDONLY), server


def serve(device: int) -> None:
    """Serves one file by FUSE until that is open."""
    opened = False
    while True:
        request = os.read(device, 1 << 20)
        _length, operation, unique, node = struct.unpack_from("<IIQQ", request)
        answer: bytes | None = None
        if operation == _INIT:
            answer = struct.pack("<IIIIHHIIHHI", 7, 31, 65536, 0, 10, 10, 65536, 1, 1, 0, 0).ljust(64, b"\0")
        elif operation == _LOOKUP and not opened:
            answer = struct.pack("<QQQQII", 2, 0, 0, 0, 0, 0) + _attributes(2, _FILE)
        elif operation == _GETATTR and not opened:
            answer = struct.pack("<QII", 0, 0, 0) + _attributes(node, _DIRECTORY if node == 1 else _FILE)
        elif operation == _OPEN:
            opened, answer = True, struct.pack("<QII", 1, 0, 0)
        if answer is not None:
            os.write(device, struct.pack("<IiQ", 16 + len(answer), 0, unique) + answer)
        elif not opened and operation not in (_FORGET, _INTERRUPT):
            os.write(device, struct.pack("<IiQ", 16, -38, unique))


def _attributes(node: int, mode: int) -> bytes:
    return struct.pack("<QQQQQQIIIIIIIIII", node, 65536, 128, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)


def answer(attacker: Attacker, question: dict[str, Any]) -> dict[str, Any]:
    try:
        if "prepare" in question:
            prepare(Path(question["prepare"]))
        elif "linger" in question:
            attacker.linger(question["linger"], question["seconds"])
        elif "half" in question:
            attacker.begin_messages(question["half"])
        elif "fuse" in question:
            attacker.fuse(Path(question["fuse"]), question["method"])
        else:
            attacker.release()
    except OSError as error:
        return {"failed": f"{type(error).__name__}: {error}"}
    return {}


if __name__ == "__main__":
    own = Attacker(sys.argv[1])
    for line in sys.stdin:
        print(json.dumps(answer(own, json.loads(line))), flush=True)
