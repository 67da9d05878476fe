"""Bytes and fds into replies, and errors into exceptions."""

from __future__ import annotations

import json
import os
import resource
import socket
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luod import errors
from luod.ipc.errors import from_the_wire
from luod.ipc.framing import Inbox, decode_reply, encode_call, receive, send
from luod.linux import Fd, memfd


def taken(inbox: Inbox) -> list[dict[str, object]]:
    replies = []
    while (reply := inbox.take()) is not None:
        replies.append(dict(reply.parameters))
    return replies


@given(texts=st.lists(st.text(), max_size=5), cuts=st.lists(st.integers(0, 500), max_size=8))
def test_replies_come_out_whole_however_they_were_cut(texts: list[str], cuts: list[int]) -> None:
    stream = b"".join(json.dumps({"parameters": {"text": text}}).encode() + b"\0" for text in texts)
    inbox = Inbox()
    last = 0
    for cut in [*sorted(cuts), len(stream)]:
        inbox.feed(stream[last : max(last, cut)])
        last = max(last, cut)
    assert taken(inbox) == [{"text": text} for text in texts]


@pytest.mark.parametrize(
    ("before", "piece", "after", "owner"),
    [
        (b"", b'{"a":1}\0', b"", 0),
        (b"", b'{"a":1}\0{"b":2}\0', b"", 1),
        (b"", b'{"a":1}\0{"b"', b":2}\0", 1),
        (b'{"a"', b':1}\0{"b":2}\0', b"", 1),
        (b"", b'{"a"', b':1}\0{"b":2}\0', 0),
    ],
)
def test_fds_go_with_the_last_message_that_begins_beside_them(
    before: bytes, piece: bytes, after: bytes, owner: int
) -> None:
    inbox = Inbox()
    inbox.feed(before)
    inbox.feed(piece, (memfd("fd", 1),))
    inbox.feed(after)
    replies = []
    while (reply := inbox.take()) is not None:
        replies.append(reply)
    assert [len(reply.fds) for reply in replies] == [int(number == owner) for number in range(len(replies))]
    for reply in replies:
        reply.close()


def test_fds_in_the_middle_of_a_message_are_closed() -> None:
    inbox = Inbox()
    inbox.feed(b'{"a"')
    fd = memfd("fd", 1)
    with pytest.raises(errors.ProtocolError):
        inbox.feed(b":1}\0", (fd,))
    assert fd.closed
    inbox.close()


@pytest.mark.parametrize(
    "text",
    [
        b"x\0",
        b"[]\0",
        b"\xff\0",
        b"[" * 100_000 + b"\0",
        b'{"error":7}\0',
        b"\0",
        b'{"parameters":[]}\0',
        b'{"continues":1}\0',
    ],
)
def test_what_is_no_reply_is_a_protocol_error_and_its_fds_are_closed(text: bytes) -> None:
    inbox = Inbox()
    fd = memfd("fd", 1)
    with pytest.raises(errors.ProtocolError):
        inbox.feed(text, (fd,))
    assert fd.closed
    inbox.close()


@pytest.mark.parametrize(
    "text",
    [
        b"{}",
        b'{"parameters":null}',
        b'{"parameters":{},"continues":false}',
        b'{"parameters":null,"continues":null,"error":null}',
        b'{"com.example.trace":{}}',
    ],
)
def test_a_reply_without_parameters_or_with_null_is_an_empty_one(text: bytes) -> None:
    reply = decode_reply(text)
    assert (reply.parameters, reply.error, reply.continues) == ({}, None, False)


def test_a_reply_longer_than_the_limit_is_a_protocol_error() -> None:
    inbox = Inbox(limit=100)
    with pytest.raises(errors.ProtocolError):
        inbox.feed(b"x" * 101)


def test_an_fd_is_taken_once_and_the_rest_is_closed() -> None:
    files = (memfd("one", 1), memfd("two", 2))
    reply = decode_reply(b'{"parameters":{"fileDescriptor":1,"far":2,"truth":true}}', files)
    with reply.take("fileDescriptor") as fd:
        assert os.fstat(fd.fileno()).st_size == 2
        for member in ("fileDescriptor", "far", "truth", "missing"):
            with pytest.raises(errors.ProtocolError):
                reply.take(member)
    reply.close()
    assert files[0].closed


def test_text_that_json_cannot_carry_is_bad_input_and_not_sent() -> None:
    with pytest.raises(errors.BadInput, match="is not valid Unicode text"):
        encode_call("a.b.C", {"name": "vm\udcff"})
    assert "vm-é-🖥".encode() in encode_call("a.b.C", {"name": "vm-é-🖥"})


def test_a_long_message_and_its_fds_go_through_a_socket() -> None:
    ours, theirs = socket.socketpair()
    message = encode_call("a.b.C", {"text": "x" * 100_000}, more=True)
    inbox = Inbox()
    with ours, theirs, memfd("fd", 3) as fd:
        send(ours, message, (fd.fileno(),))
        ours.close()
        while (read := receive(theirs))[0]:
            inbox.feed(*read)
    reply = inbox.take()
    assert reply is not None
    assert [os.fstat(number.fileno()).st_size for number in reply.fds] == [3]
    reply.close()


SENDS_TO_NOBODY = """
import asyncio, signal, socket
from luod.ipc.client import async_connection
from luod.ipc.framing import send
signal.signal(signal.SIGPIPE, signal.SIG_DFL)
def closed():
    ours, theirs = socket.socketpair()
    theirs.close()
    ours.setblocking(False)
    return ours
for attempt in (
    lambda: send(closed(), b"x"),
    lambda: send(closed(), b"x", [0]),
    lambda: asyncio.run(async_connection.send(closed(), b"x", [])),
):
    try:
        attempt()
    except BrokenPipeError:
        print("broken", flush=True)
"""


def test_a_closed_connection_is_an_error_also_in_a_program_that_does_not_ignore_sigpipe() -> None:
    """luod closes a connection unread that it has no room for."""
    done = subprocess.run([sys.executable, "-c", SENDS_TO_NOBODY], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "broken\n" * 3), done.stderr


def test_fds_this_process_has_no_room_for_are_a_protocol_error() -> None:
    ours, theirs = socket.socketpair()
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with ours, theirs, memfd("fd", 1) as fd:
        socket.send_fds(ours, [b"x"], [fd.fileno()] * 10)
        os.close(lowest := os.dup(fd.fileno()))
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + 1, limits[1]))
        try:
            with pytest.raises(errors.ProtocolError):
                receive(theirs)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@pytest.mark.parametrize(
    ("name", "parameters", "kind"),
    [
        ("io.luod.Sessions.NoSuchSession", {"name": "vm"}, errors.NoSuchSession),
        ("io.luod.Sessions.SessionExists", {"name": "vm"}, errors.SessionExists),
        ("io.luod.Sessions.InvalidName", {"name": ""}, errors.BadInput),
        ("io.luod.Sessions.Refused", {}, errors.Refused),
        ("io.luod.Sessions.NotFinished", {}, errors.CallFailed),
        ("io.luod.Sessions.Busy", {}, errors.Busy),
        ("io.luod.Admin.NotLoaded", {}, errors.NoImageLoaded),
        ("io.luod.Admin.NotAKernelImage", {}, errors.NotAKernelImage),
        ("io.luod.Admin.UpdateRunning", {}, errors.Busy),
        ("io.luod.Admin.KernelRefused", {"errno": 16, "call": "reboot"}, errors.KernelRefused),
        ("io.luod.Sessions.KernelRefused", {"errno": "x"}, errors.KernelRefused),
        ("org.varlink.service.PermissionDenied", {}, errors.CallFailed),
        ("org.example.NoSuchSession", {}, errors.CallFailed),
    ],
)
def test_an_error_becomes_its_exception(name: str, parameters: dict[str, object], kind: type[Exception]) -> None:
    error = from_the_wire(name, {**parameters, "message": "what was wrong", "hint": "what to do"})
    assert type(error) is kind
    if not name.endswith(("KernelRefused", "PermissionDenied")):
        assert "what was wrong" in str(error)
    assert error.hint == "what to do"


def test_a_refusal_of_the_kernel_keeps_its_errno() -> None:
    error = from_the_wire("io.luod.Admin.KernelRefused", {"errno": 16, "call": "reboot", "meaning": "busy"})
    assert isinstance(error, OSError)
    assert error.errno == 16
    assert str(error) == "reboot: busy"


def test_raise_error_closes_the_fds() -> None:
    reply = decode_reply(b'{"error":"io.luod.Sessions.Busy"}', (Fd(os.memfd_create("x")),))
    with pytest.raises(errors.CallFailed):
        reply.raise_error()
    assert reply.fds[0].closed
