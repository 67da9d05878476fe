"""`tests.programs.client` that takes part in updates with the library: `luod.Participant` or `luod.AsyncParticipant`.

`python3 -m tests.programs.guest blocking|asyncio SOCKET`, inside a machine. Standard library and luod only.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import sys
from collections.abc import Callable
from typing import Any

import luod
from tests.programs.client import Client


class Guest(Client):
    def __init__(self, surface: str, socket: str) -> None:
        super().__init__(surface, socket)
        self._loop = asyncio.new_event_loop() if surface == "asyncio" else None
        self._participant: Any = None
        self._phase: Any = None
        self._restored: Any = None
        self._client: Any = None

    def result(self, value: Any) -> Any:
        return value if self._loop is None or not inspect.isawaitable(value) else self._loop.run_until_complete(value)

    def call_participate(self, name: str, sessions: list[str], planned: list[dict[str, Any]] | None = None) -> None:
        held = [self.outgoing[slot] for slot in sessions]
        plans = [luod.PlannedFile(**plan) for plan in planned or ()]
        client: Any = self._surface(self._socket)
        kind = luod.Participant if self._loop is None else luod.AsyncParticipant
        participant: Any = kind(name, held, planned=plans, client=client)
        self.result(participant.__enter__() if self._loop is None else participant.__aenter__())
        self._participant = participant

    def call_next(self) -> dict[str, Any]:
        self._phase = self.result(self._participant.next())
        phase = self._phase
        return {"kind": phase.kind, "generation": phase.generation, "reason": phase.reason, "left": phase.seconds_left}

    def call_within(self, seconds: float) -> str | None:
        """Returns the result of `next` with a timeout."""
        phase = self.result(self._participant.next(seconds))
        return None if phase is None else str(phase.kind)

    def call_ready(self) -> bool:
        return bool(self.result(self._phase.ready()))

    def call_veto(self, reason: str) -> bool:
        return bool(self.result(self._phase.veto(reason)))

    def call_create_frozen(self, slot: str) -> None:
        self.outgoing[slot] = self.result(self._phase.create())

    def call_with_phase(self, error: str | None = None, create: bool = False, vote: str | None = "ready") -> str | None:
        """Goes through `with phase`, and creates a frozen session, votes, or raises in it; what comes out of it."""

        async def enter() -> None:
            async with self._phase:
                if create:
                    await self._phase.create()
                if vote is not None and self._phase.awaits_vote:
                    await self._phase.ready()
                if error is not None:
                    raise OSError(error)

        try:
            if self._loop is None:
                with self._phase:
                    if create:
                        self._phase.create()
                    if vote is not None and self._phase.awaits_vote:
                        self._phase.ready()
                    if error is not None:
                        raise OSError(error)
            else:
                self.result(enter())
        except OSError as raised:
            return str(raised)
        return None

    def call_leave(self) -> str | None:
        """Ends `with participant`; what comes out of it."""
        participant = self._participant
        try:
            self.result(participant.__exit__(*[None] * 3) if self._loop is None else participant.__aexit__(*[None] * 3))
        except OSError as raised:
            return str(raised)
        return None

    def call_run(self, fail_in: str | None = None) -> list[str]:
        """Runs callbacks until `cancelled`; what was called, and what came out."""
        called = []

        def callback(kind: str) -> Callable[[Any], Any]:
            def call(phase: Any) -> Any:
                called.append(kind)
                if kind == fail_in:
                    raise OSError(f"no {kind} today")
                if kind == "cancelled":
                    self._participant.close()
                return phase.ready() if phase.awaits_vote else None

            return call

        kinds = ("freezing", "jumping", "cancelled")  # preparing has no callback, so it is ready
        try:
            self.result(self._participant.run(**{kind: callback(kind) for kind in kinds}))
        except OSError as raised:
            called.append(f"raised: {raised}")
        return called

    def call_hang_up(self) -> None:
        self._participant.close()

    def call_child_has_the_connection(self) -> bool:
        """Returns whether a forked child still has an fd of the connection."""
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

    def call_restore(self, name: str, timeout: float = 30.0) -> dict[str, Any] | None:
        """Restores with the same client at each call."""
        if self._client is None:
            self._client = self._surface(self._socket)
        self._client.timeout = timeout
        restored = self._restored = self.result(self._client.restore(name))
        return None if restored is None else {"generation": restored.generation, "names": list(restored.names)}

    def call_retrieve_restored(self, name: str, slot: str) -> None:
        self.put(slot, self.result(self._restored[name]).detach())

    def call_resume(self) -> None:
        self.result(self._restored.resume())

    def call_finish_restored(self) -> None:
        self.result(self._restored.finish())

    def call_discard_restored(self) -> None:
        self.result(self._restored.discard())


if __name__ == "__main__":
    Guest(*sys.argv[1:]).serve(sys.stdin, sys.stdout)
