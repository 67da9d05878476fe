"""The requests of a test to a machine's agent, and the answers, over the machine's kexecs.

Each boot has an agent of its own, which begins with a hello. A request is for the agent of the present boot: after the
next hello it has no answer. What is asked, and how a machine starts and ends, is in `machine` and its subclasses.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from luod.errors import MachineEnded, MachineError, MachineJumped
from luod.testing.channel import Channel


class Limit:
    """The time limit of one wait, whatever arrives in it."""

    def __init__(self, seconds: float) -> None:
        """It begins now."""
        self.seconds = seconds
        self.end = time.monotonic() + seconds

    def left(self) -> float:
        """Returns the seconds until its end, 0 after it."""
        return max(0.0, self.end - time.monotonic())


class Conversation:
    """The conversation of one machine. Not thread-safe."""

    def __init__(
        self,
        channel: Channel,
        *,
        timeout: float,
        booted: Callable[[Mapping[str, Any]], None],
        told: Callable[[Mapping[str, Any]], None],
        why_ended: Callable[[], str],
        log: Callable[[], str],
    ) -> None:
        """Takes ownership of `channel`. `timeout` is that of a request without another one, in seconds.

        `booted` is called with the hello of each boot, `told` with each message about a program. `why_ended` returns
        how a machine that closed its end of the channel has ended, and `log` its output, for the text of a failure.
        """
        self.timeout = timeout
        self.boot = 0
        """1 until the first kexec, 2 until the second, and so on; 0 before the first hello."""
        self._channel = channel
        self._booted = booted
        self._told = told
        self._why_ended = why_ended
        self._log = log
        self._agent = ""
        self._imports = ""
        """The module of luod_preload that the agent imports now."""
        self._last_request = 0
        self._answers: dict[int, dict[str, Any] | None] = {}

    @property
    def closed(self) -> bool:
        return self._channel.closed

    def close(self) -> None:
        """Closes the channel. A later request raises MachineEnded. Idempotent."""
        self._channel.close()

    def request(self, verb: str, doing: str, *, parameters: Mapping[str, Any], timeout: float | None = None) -> Any:
        """Sends a request to the agent and returns the answer's value. `doing` is for the message of a failure.

        Raises MachineJumped: the machine did a kexec meanwhile. Raises MachineEnded. Raises MachineError: there is no
        answer within `timeout` seconds, or the answer is an error.
        """
        return self.wait(self.send(verb, doing, parameters=parameters), doing, timeout=timeout)

    def send(self, verb: str, doing: str, *, parameters: Mapping[str, Any]) -> int:
        """Sends a request and returns its number, for `wait`. Raises MachineEnded, or MachineError: it is not taken."""
        self._last_request += 1
        identity = self._last_request
        message = {**parameters, "id": identity, "agent": self._agent, "do": verb}
        try:
            self._channel.send(message, timeout=self.timeout)
        except TimeoutError:
            raise MachineError(self.failure(doing, f"not taken within {self.timeout} s")) from None
        except ConnectionError:
            raise self._ended(doing) from None
        self._answers[identity] = None
        return identity

    def wait(self, identity: int, doing: str, *, timeout: float | None = None) -> Any:
        """Waits for the answer to a request that was sent, and returns its value. Raises as `request`."""
        limit = Limit(self.timeout if timeout is None else timeout)
        while (answer := self._answers.get(identity)) is None:
            if identity not in self._answers:
                raise MachineJumped(self.failure(doing, "the machine jumped before it was answered"))
            self._receive(doing, limit)
        del self._answers[identity]
        if "error" in answer:
            raise MachineError(self.failure(doing, f"{answer['error']['kind']}: {answer['error']['text']}"))
        return answer["value"]

    def wait_for_boot(self, boot: int, doing: str, *, timeout: float | None = None) -> None:
        """Waits for the hello of `boot` or of a later one. Raises MachineError and MachineEnded."""
        limit = Limit(self.timeout if timeout is None else timeout)
        while self.boot < boot:
            try:
                self._receive(doing, limit)
            except MachineJumped:
                continue

    def handle_arrived(self) -> None:
        """Handles what the agent has sent without a request, up to the next boot, which a request is told of."""
        while (message := self._channel.arrived(but="hello")) is not None:
            self._handle(message)

    def failure(self, doing: str, what: str, *, program: str = "", output: str = "") -> str:
        """Returns the text of a failure, with the boot and the machine's log. `program` is a program's stderr, `output`
        the end of its stdout."""
        text = f"boot {self.boot}: {doing}: {what}"
        if self._imports:
            text += f"; the agent imports a module of luod_preload before: {self._imports}"
        if output:
            text += f"\n--- the end of the program's stdout\n{output}"
        if program:
            text += f"\n--- the program's stderr\n{program}"
        if log := self._log():
            text += f"\n--- the machine's log\n{log}"
        return text

    def _receive(self, doing: str, limit: Limit) -> None:
        """Receives one message from the agent. Raises MachineJumped when it is another boot's hello."""
        try:
            message = self._channel.receive(until=limit.end)
        except TimeoutError:
            raise MachineError(self.failure(doing, f"no answer within {limit.seconds:g} s")) from None
        except ConnectionError:
            raise self._ended(doing) from None
        if "hello" in message:
            self._hello(message)
            raise MachineJumped(self.failure(doing, f"the machine is now in boot {self.boot}"))
        self._handle(message)

    def _handle(self, message: dict[str, Any]) -> None:
        if "program" in message:
            self._told(message)
        elif "imports" in message:
            self._imports = message["imports"]
        elif message.get("id") in self._answers:
            self._answers[message["id"]] = message

    def _hello(self, message: Mapping[str, Any]) -> None:
        expected = self.boot + 1
        # A real kernel does not know its number, and reports 0.
        if message["hello"] not in (0, expected):
            raise MachineError(self.failure("boot", f"boot {expected} is due, and it says {message['hello']}"))
        self.boot = expected
        self._agent, self._imports = message["agent"], ""
        self._answers.clear()
        self._booted(message)

    def _ended(self, doing: str) -> MachineEnded:
        why = "the machine is closed" if self.closed else self._why_ended()
        return MachineEnded(self.failure(doing, why))
