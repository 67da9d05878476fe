"""`tests.programs.client` that takes part in updates with the library: `luod.Participant`, or asyncio's.

`python3 -m tests.programs.guest blocking|asyncio SOCKET`, inside a machine. Standard library and luod only.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable
from typing import Any

import luod
import luod.aio
from tests.programs.client import Client


class Guest(Client):
    def __init__(self, surface: str, socket: str) -> None:
        super().__init__(surface, socket)
        self._loop = asyncio.new_event_loop() if surface == "asyncio" else None
        self._participant: Any = None
        self._phase: Any = None
        self._arrival: Any = None
        self._client: Any = None

    def _wait(self, value: Any) -> Any:
        return value if self._loop is None else self._loop.run_until_complete(value)

    def call_participate(self, name: str, sessions: list[str], planned: list[dict[str, Any]] | None = None) -> None:
        held = [self.outgoing[slot] for slot in sessions]
        plans = [luod.PlannedFile(**plan) for plan in planned or ()]
        if self._loop is None:
            client = luod.connect(self._socket)
            self._participant = luod.Participant(name, held, planned=plans, client=client)
        else:
            client = self._wait(luod.aio.connect(self._socket))
            self._participant = self._wait(luod.aio.Participant.follow(name, held, planned=plans, client=client))

    def call_next(self) -> dict[str, Any]:
        self._phase = self._wait(self._participant.next())
        phase = self._phase
        return {"kind": phase.kind, "generation": phase.generation, "reason": phase.reason, "left": phase.seconds_left}

    def call_within(self, seconds: float) -> str | None:
        """What `next` with a timeout gives: the blocking one's only."""
        phase = self._participant.next(seconds)
        return None if phase is None else str(phase.kind)

    def call_ready(self) -> bool:
        return bool(self._wait(self._phase.ready()))

    def call_veto(self, reason: str) -> bool:
        return bool(self._wait(self._phase.veto(reason)))

    def call_create_frozen(self, slot: str) -> None:
        self.outgoing[slot] = self._wait(self._phase.create())

    def call_with_phase(self, error: str | None = None, create: bool = False) -> str | None:
        """Goes through `with phase`, and raises in it, or creates a frozen session; what `failure` is after it."""

        def body() -> None:
            if error is not None:
                raise OSError(error)

        async def enter() -> None:
            async with self._phase:
                if create:
                    await self._phase.create()
                body()

        if self._loop is None:
            with self._phase:
                if create:
                    self._phase.create()
                body()
        else:
            self._wait(enter())
        failure = self._phase.failure
        return None if failure is None else str(failure)

    def call_run(self, fail_in: str | None = None) -> list[str]:
        """Runs callbacks until `cancelled`; what was called."""
        called = []

        def callback(kind: str) -> Callable[[Any], None]:
            def call(phase: Any) -> None:
                called.append(kind)
                if kind == fail_in:
                    raise RuntimeError(f"no {kind} today")
                if kind == "cancelled":
                    self._participant.close()

            return call

        def failed(phase: Any, error: Exception) -> None:
            called.append(f"failed {phase.kind}: {error}")

        kinds = ("preparing", "freezing", "jumping", "cancelled")
        self._wait(self._participant.run(**{kind: callback(kind) for kind in kinds}, failed=failed))
        return called

    def call_hang_up(self) -> None:
        self._participant.close()

    def call_child_has_the_connection(self) -> bool:
        """Whether a forked child has an fd of the connection still."""
        number = self._participant.fileno()
        read, write = os.pipe()
        if (child := os.fork()) == 0:
            try:
                os.fstat(number)
                os.write(write, b"y")
            except OSError:
                os.write(write, b"n")
            os._exit(0)
        os.waitpid(child, 0)
        answer = os.read(read, 1)
        os.close(read)
        os.close(write)
        return answer == b"y"

    def call_arrive(self, name: str, timeout: float = 30.0) -> int | None:
        """With one client, however often it is called."""
        if self._client is None:
            connect = luod.connect if self._loop is None else luod.aio.connect
            self._client = self._wait(connect(self._socket))
        self._client.timeout = timeout
        self._arrival = self._wait(self._client.arrive(name))
        return None if self._arrival.generation is None else int(self._arrival.generation)

    def call_retrieve_arrived(self, name: str, slot: str) -> None:
        self.put(slot, self._arrival.retrieve(name).detach())

    def call_resuming(self) -> None:
        self._ask("resuming", self._arrival)

    def call_finish_arrival(self, **how: Any) -> None:
        self._ask("finish", self._arrival, **how)

    def call_give_up(self, name: str) -> list[str]:
        return list(self._ask("give_up", name))


if __name__ == "__main__":
    Guest(*sys.argv[1:]).serve(sys.stdin, sys.stdout)
