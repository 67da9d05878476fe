"""The line to the agent: what has arrived is taken without a wait, and what a request must see is left to it."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator

import pytest

from luod.testing.channel import Channel


@pytest.fixture
def ends() -> Iterator[tuple[Channel, socket.socket]]:
    """Yields a channel and the agent's end."""
    ours, theirs = socket.socketpair()
    channel = Channel(ours)
    with theirs:
        yield channel, theirs
    channel.close()


def test_what_has_arrived_is_taken_without_a_wait(ends: tuple[Channel, socket.socket]) -> None:
    channel, agent = ends
    assert channel.arrived(but="hello") is None
    agent.send(b'{"program": 1, "stderr": "a"}\n{"program": 1, "st')
    assert channel.arrived(but="hello") == {"program": 1, "stderr": "a"}
    assert channel.arrived(but="hello") is None
    agent.send(b'derr": "b"}\n')
    assert channel.arrived(but="hello") == {"program": 1, "stderr": "b"}


def test_the_next_boot_is_left_to_a_request(ends: tuple[Channel, socket.socket]) -> None:
    channel, agent = ends
    hello, later = {"hello": 2}, {"program": 1, "ended": 0}
    agent.send(b"".join(json.dumps(message).encode() + b"\n" for message in (hello, later)))

    assert channel.arrived(but="hello") is None

    assert channel.receive(until=time.monotonic() + 1) == hello
    assert channel.arrived(but="hello") == later


def test_the_end_of_the_machine_is_left_to_a_request(ends: tuple[Channel, socket.socket]) -> None:
    channel, agent = ends
    agent.close()

    assert channel.arrived(but="hello") is None

    with pytest.raises(ConnectionError):
        channel.receive(until=time.monotonic() + 1)


def test_nothing_arrives_on_a_closed_channel(ends: tuple[Channel, socket.socket]) -> None:
    channel, _ = ends
    channel.close()

    assert channel.arrived(but="hello") is None


def test_after_its_deadline_a_wait_takes_what_was_read_and_no_more(ends: tuple[Channel, socket.socket]) -> None:
    channel, agent = ends
    first, second = {"program": 1, "stderr": "a"}, {"program": 1, "stderr": "b"}
    agent.send(json.dumps(first).encode() + b"\n" + json.dumps(second).encode() + b"\n")
    past = time.monotonic() - 1

    with pytest.raises(TimeoutError):
        channel.receive(until=past)
    assert channel.receive(until=time.monotonic() + 1) == first
    assert channel.receive(until=past) == second


def test_a_wait_may_be_longer_than_poll_takes(ends: tuple[Channel, socket.socket]) -> None:
    channel, agent = ends
    agent.send(b'{"hello": 2}\n')

    assert channel.receive(until=time.monotonic() + 1e9) == {"hello": 2}
