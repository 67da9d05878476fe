"""A hostile client: `python3 -m tests.programs.flood SOCKET`, inside a machine, under the uid it is started as.

    {"connections": 128, "messages": ["…"]}   ->   {"connected": 128}
    {"stop": true}                            ->   {"answered": 5310, "hung_up": 0}

With "users", a list of uids, the connections are theirs in turn, which only root can do. From the first answer to the
second question each connection sends one of the messages after the other, without end; the
next when the last was answered. With "hang_up" it does that over a new connection for each message, and does not wait
for the answer. Standard library only.
"""

from __future__ import annotations

import json
import os
import select
import socket
import sys
from dataclasses import dataclass
from itertools import count, cycle
from typing import Any

CHUNK = 1 << 16


@dataclass
class Attacker:
    """One connection. `left` is what is still to be sent of the message under way; b"": an answer is awaited."""

    connection: socket.socket
    left: memoryview


class Flood:
    def __init__(self, path: str, messages: list[bytes], *, hang_up: bool, users: list[int]) -> None:
        self._path = path
        self._users = cycle(users or [os.geteuid()])
        self._messages = messages
        self._hang_up = hang_up
        self._numbers = count()
        self._poll = select.epoll()
        self._attackers: dict[int, Attacker] = {}
        self.answered = 0
        self.hung_up = 0

    def connect(self) -> None:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        own, user = os.geteuid(), next(self._users)
        os.seteuid(user)
        connection.connect(self._path)
        os.seteuid(own)
        connection.setblocking(False)
        self._attackers[connection.fileno()] = Attacker(connection, self._next())
        self._poll.register(connection, select.EPOLLOUT)

    def _next(self) -> memoryview:
        return memoryview(self._messages[next(self._numbers) % len(self._messages)])

    def go_on(self, seconds: float) -> None:
        """Serves each connection once that can be written to or has an answer."""
        for number, events in self._poll.poll(seconds):
            attacker = self._attackers[number]
            try:
                if attacker.left:
                    self._send(attacker)
                elif events & (select.EPOLLIN | select.EPOLLHUP):
                    self._receive(attacker)
            except BlockingIOError:
                continue
            except (BrokenPipeError, ConnectionResetError):
                self.hung_up += 1
                self._again(attacker)

    def _send(self, attacker: Attacker) -> None:
        attacker.left = attacker.left[attacker.connection.send(attacker.left) :]
        if not attacker.left:
            if self._hang_up:
                self._again(attacker)
            else:
                self._poll.modify(attacker.connection, select.EPOLLIN)

    def _receive(self, attacker: Attacker) -> None:
        data = attacker.connection.recv(CHUNK)
        if not data:
            raise ConnectionResetError
        if data.endswith(b"\0"):
            self.answered += 1
            attacker.left = self._next()
            self._poll.modify(attacker.connection, select.EPOLLOUT)

    def _again(self, attacker: Attacker) -> None:
        del self._attackers[attacker.connection.fileno()]
        attacker.connection.close()
        self.connect()

    def close(self) -> None:
        for attacker in self._attackers.values():
            attacker.connection.close()
        self._poll.close()


def attack(path: str, order: dict[str, Any]) -> dict[str, int]:
    messages = [message.encode() + b"\0" for message in order["messages"]]
    flood = Flood(path, messages, hang_up=order.get("hang_up", False), users=order.get("users", []))
    for _ in range(order["connections"]):
        flood.connect()
    print(json.dumps({"connected": order["connections"]}), flush=True)
    questions = select.poll()
    questions.register(sys.stdin, select.POLLIN)
    while not questions.poll(0):
        flood.go_on(0.1)
    sys.stdin.readline()
    flood.close()
    return {"answered": flood.answered, "hung_up": flood.hung_up}


if __name__ == "__main__":
    while question := sys.stdin.readline():
        print(json.dumps(attack(sys.argv[1], json.loads(question))), flush=True)
