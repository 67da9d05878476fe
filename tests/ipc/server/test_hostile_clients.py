"""Clients that mean harm, one a row: each is refused or dropped, a well-behaved client is served all along, and the
server has its fds and its memory back.
"""

from __future__ import annotations

import json
import os
import select
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from luod.testing import eventually

MIB = 1024 * 1024
ECHO = b'{"method":"org.example.Talk.Echo","parameters":{"text":"x"}}\0'
LARGE_ECHO = ECHO.replace(b'"x"', b'"' + b"x" * 60_000 + b'"')
COUNT = b'{"method":"org.example.Talk.Count","more":true}\0'


def dropped(connection: socket.socket) -> None:
    """Waits until the server has hung up, whatever it still says before."""
    try:
        while connection.recv(MIB):
            pass
    except ConnectionResetError:
        pass


def says(text: bytes) -> Callable[[socket.socket], None]:
    def attack(connection: socket.socket) -> None:
        connection.sendall(text)
        dropped(connection)

    return attack


def is_told(text: bytes, error: bytes) -> Callable[[socket.socket], None]:
    """Sends what is no call, and gets an error reply; the connection stays."""

    def attack(connection: socket.socket) -> None:
        connection.sendall(text)
        answer = b""
        while not answer.endswith(b"\0"):
            data = connection.recv(MIB)
            assert data, "hung up without an answer"
            answer += data
        assert error in answer
        connection.sendall(ECHO)
        assert connection.recv(MIB) == b'{"parameters":{"text":"x"}}\0'

    return attack


def writes_until_hangup(connection: socket.socket, text: bytes, most: int) -> int:
    """Returns the number of bytes that could be written."""
    written = 0
    try:
        while written < most:
            written += connection.send(text)
    except (BrokenPipeError, ConnectionResetError):
        pass
    return written


def says_for_ever(text: bytes, most: int) -> Callable[[socket.socket], None]:
    """Writes `text` again and again and reads nothing, until the server hangs up, long before `most` bytes."""

    def attack(connection: socket.socket) -> None:
        assert writes_until_hangup(connection, text, most) < most

    return attack


def sends_fds(count: int, text: bytes, rest: bytes = b"", *, again: bool = False) -> Callable[[socket.socket], None]:
    """Sends `count` fds with `text`, and `rest` after it, with fds once more if `again`."""

    def attack(connection: socket.socket) -> None:
        file = os.memfd_create("unasked")
        try:
            socket.send_fds(connection, [text], [file] * count)
            if again:
                socket.send_fds(connection, [rest], [file])
            elif rest:
                connection.sendall(rest)
        finally:
            os.close(file)
        dropped(connection)

    return attack


def never_reads_an_endless_answer(connection: socket.socket) -> None:
    connection.sendall(COUNT)
    poll = select.poll()
    poll.register(connection, 0)
    poll.poll()


def trickles(connection: socket.socket) -> None:
    """Sends a byte at a time, each before a timeout for one byte would end."""
    poll = select.poll()
    poll.register(connection, 0)
    for byte in LARGE_ECHO:
        if poll.poll(50):
            return
        connection.send(bytes([byte]))
    raise AssertionError("it was never hung up on")


def hangs_up_in_a_call(connection: socket.socket) -> None:
    connection.sendall(b'{"method":"org.example.Talk.Hang"}\0')
    connection.close()


def hangs_up_in_a_message(connection: socket.socket) -> None:
    connection.sendall(ECHO[:20])
    connection.close()


HOSTILE: dict[str, Callable[[socket.socket], None]] = {
    "noise": says(bytes(range(1, 256)) + b"\0"),
    "no JSON": says(b"hello\0"),
    "nothing but NUL": says(b"\0" * 1000),
    "JSON that is no object": says(b"[1]\0"),
    "an object that is no call": is_told(b'{"no":"method"}\0', b"InvalidParameter"),
    "a method that is no name": is_told(b'{"method":"../../etc/passwd"}\0', b"MethodNotFound"),
    "a method of 60000 letters": is_told(b'{"method":"a.' + b"B" * 60_000 + b'"}\0', b"MethodNotFound"),
    "parameters that are no object": is_told(
        b'{"method":"org.example.Talk.Echo","parameters":7}\0', b"InvalidParameter"
    ),
    "bytes that are no UTF-8": says(b'{"method":"\xff\xfe"}\0'),
    "deep JSON": says(b"[" * 60_000 + b"\0"),
    "deep JSON in a member": says(b'{"method":' + b'{"a":' * 10_000 + b"\0"),
    "a number of 10000 digits": says(b'{"method":' + b"1" * 10_000 + b"}\0"),
    "100 MiB without an end": says_for_ever(b"x" * MIB, 100 * MIB),
    "100 MiB of small garbage": says_for_ever(b"x\0" * (MIB // 2), 100 * MIB),
    "writes without pause, never reads": says_for_ever(ECHO * 1000, 1000 * MIB),
    "never reads an endless answer": never_reads_an_endless_answer,
    "never reads large answers": says_for_ever(LARGE_ECHO, 1000 * MIB),
    "says nothing": dropped,
    "a byte at a time": trickles,
    "half a message": says(ECHO[:20]),
    "100 fds": sends_fds(100, ECHO),
    "fds with garbage": sends_fds(2, b"garbage\0"),
    "fds with half a message": sends_fds(2, ECHO[:20]),
    "fds in two pieces of one message": sends_fds(2, ECHO[:20], ECHO[20:], again=True),
    "hangs up in a call": hangs_up_in_a_call,
    "hangs up in a message": hangs_up_in_a_message,
}


def until_closed(server: Any, friend: Any, fds: int) -> None:
    """Waits until the server, which serves on meanwhile, has no more fds than that."""

    def closed() -> bool:
        friend.is_served(1)
        left: int = server.fds()
        return left <= fds

    eventually(closed, describe=f"the server has {fds} fds")


@contextmanager
def served_meanwhile(friend: Any) -> Iterator[None]:
    """Lets the friend call continually until the block ends; every call must be answered."""
    over = threading.Event()
    failures: list[BaseException] = []
    calls = 0

    def keep_calling() -> None:
        nonlocal calls
        try:
            while not over.is_set():
                friend.is_served(1)
                calls += 1
        except BaseException as error:  # noqa: BLE001 - raised again by the thread that started this one
            failures.append(error)

    thread = threading.Thread(target=keep_calling)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
    assert not failures, failures
    assert calls > 0


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_client_is_dropped_and_nobody_else_notices(name: str, start: Any, befriend: Any) -> None:
    server = start(silence_seconds=0.5, message_seconds=0.5, reply_seconds=0.5)
    friend = befriend(server)
    friend.is_served()
    fds, memory = server.fds(), server.memory()
    with served_meanwhile(friend), server.connect() as connection:
        HOSTILE[name](connection)
    until_closed(server, friend, fds)
    assert server.fds() == fds
    # JSON in Python 3.14 recurses on the C stack, which may have 8 MiB.
    assert server.memory() - memory < 16 * MIB


def test_fds_nobody_asked_for_are_closed_and_the_call_is_answered(start: Any, befriend: Any) -> None:
    server = start()
    friend = befriend(server)
    friend.is_served()
    fds = server.fds()
    file = os.memfd_create("unasked")
    try:
        for _ in range(50):
            reply = friend.call("Echo", {"text": "x"}, (file, file, file))
            assert reply.parameters == {"text": "x"}
    finally:
        os.close(file)
    # The process that received them is idle now, and ends.
    until_closed(server, friend, fds)
    assert server.fds() == fds


def test_many_that_say_nothing_leave_room_for_others_up_to_the_limit(start: Any, befriend: Any) -> None:
    server = start(connections=20)
    friend = befriend(server)
    friend.is_served()
    fds = server.fds()
    silent = [server.connect() for _ in range(60)]
    friend.is_served()
    # 19 more are let in; the 41 beyond the limit are hung up on.
    hung_up = 0
    for connection in silent[19:]:
        dropped(connection)
        hung_up += 1
    assert hung_up == 41
    friend.is_served()
    for connection in silent:
        connection.close()
    until_closed(server, friend, fds)


def test_one_beyond_the_limit_is_told_so_and_the_log_is_not_filled(start: Any, befriend: Any) -> None:
    server = start(connections=1)
    friend = befriend(server)
    friend.is_served()
    for _ in range(100):
        with server.connect() as connection:
            answer = b""
            while data := connection.recv(MIB):
                answer += data
        reply = json.loads(answer.removesuffix(b"\0"))
        assert reply["error"] == "io.luod.TooManyConnections"
        assert set(reply["parameters"]) == {"message", "hint"}
    friend.call("Echo", {"text": "x"})
    refusals = [line for line in server.log() if line["event"] == "connection-refused"]
    told = [line for line in refusals if "reason" in line]
    assert len(told) + sum(line.get("more", 0) for line in refusals) == 100
    assert 5 <= len(told) < 100


def test_a_client_that_has_called_may_be_silent(start: Any, befriend: Any) -> None:
    server = start(silence_seconds=0.2)
    friend = befriend(server)
    friend.is_served()
    with server.connect() as mute:
        dropped(mute)  # connected after the friend, and its time of silence is over
    friend.is_served()


def test_a_hang_up_cancels_the_call(start: Any, befriend: Any) -> None:
    server = start()
    friend = befriend(server)
    with server.connect() as connection:
        connection.sendall(b'{"method":"org.example.Talk.Hang"}\0' + ECHO)
        eventually(lambda: friend.call("Hanging").parameters == {"times": 1}, describe="the call hangs")
    eventually(lambda: friend.call("Cancelled").parameters == {"times": 1}, describe="the call is cancelled")


def test_a_change_is_completed_when_its_client_hangs_up(start: Any, befriend: Any) -> None:
    server = start()
    friend = befriend(server)
    with server.connect() as connection:
        connection.sendall(b'{"method":"org.example.Talk.Change"}\0')
        eventually(lambda: friend.call("Hanging").parameters == {"times": 1}, describe="the change waits")
    assert friend.call("Changed", {"go_on": True}).parameters == {"times": 0}
    eventually(lambda: friend.call("Changed", {"go_on": True}).parameters == {"times": 1}, describe="it is changed")
    friend.is_served()


def test_a_peer_that_only_stopped_writing_gets_its_answer(start: Any) -> None:
    server = start()
    with server.connect() as connection:
        connection.sendall(ECHO)
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        while data := connection.recv(1000):
            answer += data
    assert json.loads(answer[:-1]) == {"parameters": {"text": "x"}}


def test_a_call_that_the_server_cannot_answer_any_more_ends_with_its_connection(start: Any, befriend: Any) -> None:
    server = start()
    other = befriend(server)
    with server.connect() as connection:
        connection.sendall(b'{"method":"org.example.Talk.Lose"}\0')
        assert connection.recv(1000) == b""
    other.is_served()


def test_a_bug_in_a_call_is_the_callers_alone(start: Any, befriend: Any) -> None:
    server = start()
    friend, other = befriend(server), befriend(server)
    reply = friend.call("Fail")
    assert reply.error == "io.luod.InternalError"
    friend.is_served()
    other.is_served()
