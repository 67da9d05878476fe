"""The server's side as well-behaved clients see it: Varlink's reference client, and ours."""

from __future__ import annotations

import os
import socket
from typing import Any

import pytest
import varlink

ECHO = b'{"method":"org.example.Talk.Echo","parameters":{"text":"%s"}}\0'


def test_the_reference_client_is_answered(start: Any) -> None:
    server = start()

    def converse() -> tuple[Any, Any, list[int]]:
        with varlink.Client.new_with_address(f"unix:{server.path}") as client:
            with client.open("org.varlink.service") as service:
                info = service.GetInfo()
            with client.open("org.example.Talk") as talk:
                text = talk.Echo("ü")
            with client.open("org.example.Talk") as talk:
                replies = talk.Count(_more=True)
                numbers = [next(replies)["number"] for _ in range(5)]
                talk.close()
        return info, text, numbers

    info, text, numbers = converse()
    assert info["product"] == "luod"
    assert info["interfaces"] == ["org.example.Talk", "org.varlink.service"]
    assert text == {"text": "ü"}
    assert numbers == [0, 1, 2, 3, 4]


def test_a_wrong_call_is_told_what_is_wrong(start: Any, befriend: Any) -> None:
    friend = befriend(start())
    missing = friend.call("Nothing")
    assert missing.error == "org.varlink.service.MethodNotFound"
    wrong = friend.call("Echo", {"text": 7})
    assert wrong.error == "org.varlink.service.InvalidParameter"
    assert wrong.parameters == {"parameter": "text"}
    one_only = friend.call("Count")
    assert one_only.error == "org.varlink.service.ExpectedMore"


def test_fds_go_both_ways(start: Any, befriend: Any) -> None:
    friend = befriend(start())
    reply = friend.call("Open")
    with reply.take("fileDescriptor") as file:
        assert os.pread(file.fileno(), 10, 0) == b"hello"
        assert not os.get_inheritable(file.fileno())
        assert friend.call("Measure", {"fileDescriptor": 0}, (file.fileno(),)).parameters == {"size": 5}


def test_before_each_reply_what_it_relies_on_is_written_down(start: Any, befriend: Any) -> None:
    friend = befriend(start())
    friend.is_served(times=2)
    assert friend.call("Fail").error == "io.luod.InternalError"
    assert friend.call("Written").parameters == {"times": 3}


def test_a_file_in_an_answer_that_cannot_be_written_down_is_closed(start: Any, befriend: Any) -> None:
    server = start()
    friend = befriend(server)
    friend.is_served()
    before = server.fds()

    with pytest.raises(AssertionError, match="hung up"):
        friend.call("OpenUnwritten")

    befriend(server).is_served()
    assert server.fds() == before


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
