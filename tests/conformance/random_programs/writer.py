"""The common needs of the author's parts: chance, slots, the questions so far, and the files of each process.

The parts are `sessions`, `memory` and `processes`; `generate` combines them.
"""

from __future__ import annotations

import itertools
import random
from typing import Any

from tests.conformance.random_programs import garble
from tests.conformance.random_programs.beliefs import File, Process, Session, reachable
from tests.conformance.random_programs.program import Question


class Writer:
    """The state of one program while it is written. `started` are the processes of the present boot, driver first."""

    def __init__(self, chance: random.Random, *, several_uids: bool) -> None:
        self.chance = chance
        self.several_uids = several_uids
        self.arrived: dict[str, Session] = {}
        """Sessions of the boot before that nobody has retrieved yet."""
        self.lost: list[str] = []
        """Names that should not be found any more."""
        self.started: list[Process] = []
        self.held: list[File] = []
        """What programs hold that were executed."""
        self.questions: list[Question] = []
        self._numbers = itertools.count()

    def rarely(self, one_in: int) -> bool:
        return self.chance.randrange(one_in) == 0

    def slot(self, prefix: str) -> str:
        return f"{prefix}{next(self._numbers)}"

    def any(self, process: Process, *kinds: type[File]) -> str | None:
        """Returns a slot of one of those kinds; rarely one that was never filled."""
        if self.rarely(200):
            return "nothing"
        slots = process.slots(*kinds)
        return self.chance.choice(slots) if slots else None

    def everywhere(self) -> list[File]:
        """Returns every file that is open in this boot."""
        return [*reachable(self.started), *self.held]

    def ask(self, process: Process, verb: str, **parameters: Any) -> None:
        path = {"in": list(process.path)} if process.path else {}
        self.questions.append({"do": verb, **path, **parameters})

    def ask_garbled(self, process: Process, verb: str, length: int, **parameters: Any) -> tuple[dict[str, Any], bool]:
        """Asks an ioctl with an argument of `length` bytes that may be garbled.

        Returns how it was garbled, and whether it was then asked again.
        """
        how = garble.argument(self.chance, length)
        self.ask(process, verb, **parameters, **how)
        again = bool(how) and not self.rarely(3)
        if again:
            self.ask(process, verb, **parameters)
        return how, again

    def close_slot(self, process: Process, slot: str) -> None:
        self.ask(process, "close", fd=slot)
        process.files.pop(slot, None)
