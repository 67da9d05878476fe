"""A process that makes an ioctl on a session while the machine is to jump, in which its tracer keeps it.

`python3 -m tests.programs.stuck SOCKET [bystander]`, inside a machine. It is a participant, which says that it is ready
before; a bystander only has a session. A first line it answers with {"following": true} when luod knows of it; at a
second it votes ready for freezing, and answers with {"stuck": PID} once it is so. Standard library and luod only.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import signal
import sys
from typing import Any

from luod.daemon.updates.stuck_ioctls import in_session_ioctl
from luod.ipc.client.connection import Connection
from luod.ipc.framing import encode_call
from luod.ipc.names import SESSIONS, UPDATES

PTRACE_TRACEME, PTRACE_SYSCALL = 0, 24
GET_NAME = 0xBA44


def ptrace(request: int, pid: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    if libc.ptrace(request, pid, None, None):
        raise OSError(ctypes.get_errno(), "ptrace")


def call(socket: str, method: str, parameters: dict[str, Any]) -> None:
    with Connection(socket, timeout=30.0) as connection:
        connection.ask(encode_call(method, parameters)).close()


def take_part(socket: str, following: int, go: int) -> None:
    """Follows for a session, which a byte in `following` tells, and votes ready in both phases, in the second when
    there is a byte in `go`; then comes the ioctl.
    """
    call(socket, f"{SESSIONS}.Create", {"name": "liar"})
    follow = Connection(socket, timeout=30.0)
    secret = ""
    for reply in follow.follow(encode_call(f"{UPDATES}.Follow", {"name": "liar"}, more=True)):
        event = reply.parameters
        if not secret:
            secret = event["participant"]
            call(socket, f"{UPDATES}.Declare", {"participant": secret, "sessions": [{"name": "liar", "files": []}]})
            os.write(following, b"f")
        if event["event"] == "freezing":
            os.read(go, 1)
        if event["event"] in ("preparing", "freezing"):
            ballot = {"participant": secret, "phase": event["event"], "vote": "ready", "reason": None}
            call(socket, f"{UPDATES}.Vote", ballot)
        if event["event"] == "jumping":
            break
    get_stuck()


def stand_by(socket: str, ready: int, go: int) -> None:
    """Has a session, and follows nothing."""
    call(socket, f"{SESSIONS}.Create", {"name": "bystander"})
    os.write(ready, b"f")
    os.read(go, 1)
    get_stuck()


def get_stuck() -> None:
    ptrace(PTRACE_TRACEME, 0)
    os.kill(os.getpid(), signal.SIGSTOP)
    fcntl.ioctl(0, GET_NAME)


def main() -> None:
    wait, go = os.pipe()
    followed, following = os.pipe()
    child = os.fork()
    if child == 0:
        (stand_by if sys.argv[2:] == ["bystander"] else take_part)(sys.argv[1], following, wait)
        os._exit(1)
    sys.stdin.readline()
    os.read(followed, 1)
    print(json.dumps({"following": True}), flush=True)
    sys.stdin.readline()
    os.write(go, b"g")
    while not in_session_ioctl(child):
        _, status = os.waitpid(child, 0)
        if not os.WIFSTOPPED(status):
            sys.exit(f"the child ended: {status}")
        if not in_session_ioctl(child):
            ptrace(PTRACE_SYSCALL, child)
    print(json.dumps({"stuck": child}), flush=True)
    sys.stdin.readline()


if __name__ == "__main__":
    main()
