"""The server's side as well-behaved clients see it: asyncvarlink's own client, and ours."""

from __future__ import annotations

import asyncio
import os
import socket
from typing import Any

import pytest
from asyncvarlink import (
    VarlinkClientProtocol,
    VarlinkMethodCall,
    connect_unix_varlink,
)

ECHO = b'{"method":"org.example.Talk.Echo","parameters":{"text":"%s"}}\0'


def test_the_client_of_the_library_is_answered(start: Any) -> None:
    server = start()

    async def converse() -> tuple[Any, ...]:
        transport, protocol = await connect_unix_varlink(VarlinkClientProtocol, server.path)
        info = await protocol.call(VarlinkMethodCall("org.varlink.service.GetInfo", {}))
        text = await protocol.call(VarlinkMethodCall("org.example.Talk.Echo", {"text": "ü"}))
        missing = await protocol.call(VarlinkMethodCall("org.example.Talk.Nothing", {}))
        wrong = await protocol.call(VarlinkMethodCall("org.example.Talk.Echo", {"text": 7}))
        one_only = await protocol.call(VarlinkMethodCall("org.example.Talk.Count", {}))
        replies = protocol.call_more(VarlinkMethodCall("org.example.Talk.Count", {}, more=True))
        numbers = []
        async for reply, _fds in replies:
            numbers.append(reply.parameters["number"])
            if len(numbers) == 5:
                break
        transport.close()
        await transport.closed_future
        await asyncio.gather(replies.aclose(), return_exceptions=True)
        answers = [answer[0] for answer in (info, text, missing, wrong, one_only) if answer is not None]
        return (*answers, numbers)

    info, text, missing, wrong, one_only, numbers = asyncio.run(converse())
    assert info.parameters["product"] == "luod"
    assert info.parameters["interfaces"] == ["org.example.Talk", "org.varlink.service"]
    assert text.parameters == {"text": "ü"}
    assert missing.error == "org.varlink.service.MethodNotFound"
    assert wrong.error == "org.varlink.service.InvalidParameter"
    assert wrong.parameters == {"parameter": "text"}
    assert one_only.error == "org.varlink.service.ExpectedMore"
    assert numbers == [0, 1, 2, 3, 4]


def test_fds_go_both_ways(start: Any, befriend: Any) -> None:
    friend = befriend(start())
    reply = friend.call("Open")
    with reply.take("fileDescriptor") as file:
        assert os.pread(file.fileno(), 10, 0) == b"hello"
        assert not os.get_inheritable(file.fileno())
        assert friend.call("Measure", {"fileDescriptor": 0}, (file.fileno(),)).parameters == {"size": 5}


@pytest.mark.parametrize("index", [1, 7, -5, "0", None])
def test_an_index_that_points_to_no_fd_is_refused(start: Any, befriend: Any, index: object) -> None:
    friend = befriend(start())
    with open("/dev/null", "rb") as file:
        reply = friend.call("Measure", {"fileDescriptor": index}, (file.fileno(),))
    assert reply.error == "org.varlink.service.InvalidParameter"
    friend.is_served()


def test_a_message_with_too_many_fds_is_answered_before_the_connection_ends(start: Any, befriend: Any) -> None:
    server = start()
    with open("/dev/null", "rb") as file:
        reply = befriend(server).call("Echo", {"text": "x"}, (file.fileno(),) * 17)
    assert reply.error == "io.luod.FilesNotReceived"
    assert "more fds than it may have" in reply.parameters["message"]
    assert "16 or fewer" in reply.parameters["hint"]
    befriend(server).is_served()


def test_an_fd_is_kept_with_a_message_that_comes_in_pieces(start: Any, befriend: Any) -> None:
    friend = befriend(start())
    file = os.memfd_create("piece")
    os.write(file, b"123456789")
    message = b'{"method":"org.example.Talk.Measure","parameters":{"fileDescriptor":0}' + b" " * 20_000 + b"}\0"
    try:
        socket.send_fds(friend.connection, [message[:10]], [file])
        for start_of_piece in range(10, len(message), 3000):
            friend.connection.sendall(message[start_of_piece : start_of_piece + 3000])
        assert friend.reply().parameters == {"size": 9}
    finally:
        os.close(file)


def test_calls_sent_at_once_are_answered_in_order_each_with_its_own_fd(start: Any, befriend: Any) -> None:
    friend = befriend(start())
    measure = b'{"method":"org.example.Talk.Measure","parameters":{"fileDescriptor":0}}\0'
    for size in (3, 4):
        file = os.memfd_create("two")
        os.ftruncate(file, size)
        friend.connection.sendall(ECHO % b"before")
        socket.send_fds(friend.connection, [measure], [file])
        os.close(file)
    answers = [friend.reply().parameters for _ in range(4)]
    assert answers == [{"text": "before"}, {"size": 3}, {"text": "before"}, {"size": 4}]


def test_a_call_that_wants_no_answer_gets_none(start: Any, befriend: Any) -> None:
    friend = befriend(start())
    friend.connection.sendall(b'{"method":"org.example.Talk.Echo","parameters":{"text":"x"},"oneway":true}\0')
    friend.connection.sendall(b'{"method":"org.example.Talk.Nothing","oneway":true}\0')
    friend.is_served()


def test_a_client_that_leaves_with_its_answer_is_nothing_to_log(start: Any, befriend: Any) -> None:
    server = start()
    for _ in range(300):
        with server.connect() as connection:
            connection.sendall(ECHO % b"x")
            assert connection.recv(1000)
    befriend(server).is_served()
    assert server.log() == []


def test_the_server_knows_who_calls(start: Any, befriend: Any) -> None:
    reply = befriend(start()).call("WhoAmI")
    assert reply.parameters == {"who": f"{os.getuid()} {os.getpid()} True"}
