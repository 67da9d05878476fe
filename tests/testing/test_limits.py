"""The time limits of a machine's requests, and its end when it does not answer: on a machine that is a socket here."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest

from luod.errors import MachineEnded, MachineError
from luod.testing.channel import Channel
from luod.testing.machine import Machine


class Talking(Channel):
    """A channel on which a message of no interest arrives at every look, until the test has seen enough looks."""

    def __init__(self, connection: socket.socket) -> None:
        super().__init__(connection)
        self.ends: list[float] = []

    def receive(self, *, until: float) -> dict[str, Any]:
        self.ends.append(until)
        if len(self.ends) == 3:
            raise TimeoutError
        return {"program": 99, "stderr": "working"}


class Scripted(Machine):
    """A machine of which the test plays the agent."""

    def __init__(self, channel: Channel, timeout: float = 30.0) -> None:
        super().__init__(channel, timeout=timeout)
        self.patience: list[float] = []
        """The times that it was given to end by itself."""

    def _shut_down(self, patience: float) -> None:
        self.patience.append(patience)

    def log(self) -> str:
        return ""

    def _booted(self, hello: Mapping[str, Any]) -> None:
        pass

    def _why_ended(self) -> str:
        return "it ended"


@pytest.fixture
def agent() -> Iterator[tuple[Scripted, socket.socket]]:
    """Yields a machine in its first boot, and the agent's end of its channel."""
    ours, theirs = socket.socketpair()
    machine = Scripted(Channel(ours))
    with ours, theirs:
        theirs.settimeout(30)
        tell(theirs, hello(1))
        machine._boot_up()
        yield machine, theirs


def tell(agent: socket.socket, *messages: dict[str, Any]) -> None:
    agent.sendall(b"".join(json.dumps(message).encode() + b"\n" for message in messages))


def hello(boot: int) -> dict[str, Any]:
    return {"hello": boot, "agent": f"of boot {boot}", "kernel": ""}


def asked(agent: socket.socket) -> list[tuple[str, str]]:
    """Returns the verbs that the agents were asked for, with the agent that each was for."""
    requests = map(json.loads, agent.recv(1 << 16).splitlines())
    return [(request["agent"], request["do"]) for request in requests]


def jump(machine: Machine) -> None:
    with machine.expect_jump():
        pass


@pytest.mark.parametrize(
    "wait",
    [lambda machine: machine.read("/proc/version"), Machine._boot_up, jump],
    ids=["an answer", "the boot", "a jump"],
)
def test_a_wait_has_one_time_limit_whatever_arrives_in_it(wait: Callable[[Machine], object]) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        channel = Talking(ours)
        with pytest.raises(MachineError, match="no answer within 30 s"):
            wait(Scripted(channel))

    assert len(set(channel.ends)) == 1
    assert 0 < channel.ends[0] - time.monotonic() <= 30


def test_a_machine_that_answered_gets_time_to_end(agent: tuple[Scripted, socket.socket]) -> None:
    machine, theirs = agent
    tell(theirs, {"id": 1, "value": None})

    machine.close()

    assert asked(theirs) == [("of boot 1", "exit")]
    assert machine.patience == [30.0]


def test_a_machine_that_has_ended_gets_time_to_end(agent: tuple[Scripted, socket.socket]) -> None:
    machine, theirs = agent
    theirs.close()

    machine.close()

    assert machine.patience == [30.0]


def test_the_agent_of_a_boot_that_begins_meanwhile_is_asked_to_exit(agent: tuple[Scripted, socket.socket]) -> None:
    machine, theirs = agent
    tell(theirs, hello(2), {"id": 2, "value": None})

    machine.close()

    assert asked(theirs) == [("of boot 1", "exit"), ("of boot 2", "exit")]
    assert machine.patience == [30.0]


def test_a_machine_that_does_not_answer_gets_no_time_to_end() -> None:
    ours, theirs = socket.socketpair()
    machine = Scripted(Channel(ours), timeout=0.0)
    with ours, theirs:
        machine.close()

    assert machine.patience == [0.0]


@pytest.mark.parametrize("error", [KeyboardInterrupt, pytest.fail.Exception])
def test_an_interrupted_close_shuts_down_at_once(
    agent: tuple[Scripted, socket.socket], monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    machine, _ = agent

    def interrupted(self: Channel, *, until: float) -> dict[str, Any]:
        raise error

    monkeypatch.setattr(Channel, "receive", interrupted)

    with pytest.raises(error):
        machine.close()

    assert machine.patience == [0.0]
    with pytest.raises(MachineEnded, match="the machine is closed"):
        machine.read("/proc/version")
