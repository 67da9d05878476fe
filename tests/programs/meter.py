"""A well-behaved client that times its calls: `python3 -m tests.programs.meter SOCKET`, inside a machine.

    {"method": "io.luod.Sessions.List", "parameters": {}, "times": 100, "new": true}   ->   {"ms": [0.4, …]}

With "new" each call is made over a connection of its own, which counts; else all are over one connection. A reply that
carries an error counts as any other. {"gone": REASON} is the answer when a call got no reply. Standard library only.
"""

from __future__ import annotations

import json
import socket
import struct
import sys
import time
from typing import Any

PERIOD = struct.pack("@ll", 60, 0)
"""The longest that a system call may take, as a struct timeval."""


def connect(path: str) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    # Not settimeout: a socket of Python's that has one does not wait for room in the listener's queue.
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, PERIOD)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, PERIOD)
    connection.connect(path)
    return connection


def ask(connection: socket.socket, message: bytes) -> None:
    connection.sendall(message)
    answer = b""
    while not answer.endswith(b"\0"):
        data = connection.recv(1 << 16)
        if not data:
            raise ConnectionResetError("luod hung up")
        answer += data
    if b"TooManyConnections" in answer:
        raise ConnectionRefusedError("too many connections")


def timed(path: str, message: bytes, times: int, *, new: bool) -> list[float]:
    """Milliseconds of each call."""
    taken = []
    kept = None if new else connect(path)
    try:
        for _ in range(times):
            begun = time.perf_counter()
            if kept is None:
                with connect(path) as connection:
                    ask(connection, message)
            else:
                ask(kept, message)
            taken.append(1000 * (time.perf_counter() - begun))
    finally:
        if kept is not None:
            kept.close()
    return taken


def answer(path: str, question: dict[str, Any]) -> dict[str, Any]:
    call = {"method": question["method"], "parameters": question["parameters"]}
    try:
        return {"ms": timed(path, json.dumps(call).encode() + b"\0", question["times"], new=question["new"])}
    except OSError as error:
        return {"gone": f"{type(error).__name__}: {error}"}


if __name__ == "__main__":
    for line in sys.stdin:
        print(json.dumps(answer(sys.argv[1], json.loads(line))), flush=True)
