"""Shrinks a program to the few questions that still show a difference. It is pure: the caller passes the player.

First it removes what can hardly matter (everything after the difference, boots before it, questions that share no file
with it). Then it does delta debugging: halves, quarters and so on of the rest, down to single questions. Candidates are
played many at a time, because kexecs are slow; a result of that is played alone to confirm it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from tests.conformance.random_programs.compare import Difference
from tests.conformance.random_programs.program import Boot, Program, Question

Differs = Callable[[Sequence[Program]], list[Difference | None]]
"""Plays programs with equally many boots on both machines: the first difference of each, or None."""
TOGETHER: Final = 16
"""Candidates in one play."""
_NAMING: Final = ("fd", "slot", "session", "over", "name", "kernel")


@dataclass(frozen=True)
class Shrunk:
    """`program` is the smallest found, `difference` its last event."""

    program: Program
    difference: Difference
    plays: int
    minimal: bool
    """False: time was up before every question had been tried."""


class _Search:
    """The smallest program so far. A smaller one must show the same difference."""

    def __init__(self, program: Program, found: Difference, differs: Differs, deadline: float) -> None:
        self.best, self.found = cut_after(program, found), found
        self.plays = 0
        self._differs = differs
        self._deadline = deadline

    @property
    def time_left(self) -> bool:
        return time.monotonic() < self._deadline

    def try_all(self, candidates: Sequence[Program], *, late: bool = False) -> list[int]:
        """Returns the numbers of those that show it; the first of them becomes the best one.

        `late`: even if time is up.
        """
        shown: list[int] = []
        for start in range(0, len(candidates), TOGETHER):
            if not (self.time_left or late):
                break
            self.plays += 1
            some = candidates[start : start + TOGETHER]
            for number, (candidate, found) in enumerate(zip(some, self._differs(some), strict=True), start):
                if found is not None and found.kind == self.found.kind:
                    if not shown:
                        best = cut_after(candidate, found), found
                    shown.append(number)
        if shown:
            self.best, self.found = best
        return shown


def shrink(program: Program, found: Difference, differs: Differs, *, seconds: float) -> Shrunk:
    """Returns the smallest program with the difference `found`. After `seconds` no new program is tried."""
    search = _Search(program, found, differs, time.monotonic() + seconds)
    sure = search.best, search.found
    for step in (_leave_out_boots, _leave_out_strangers, _leave_out_questions):
        step(search)
        if search.best is not sure[0] and search.try_all([search.best], late=True):
            sure = search.best, search.found
        search.best, search.found = sure
    return Shrunk(*sure, search.plays, search.time_left)


def cut_after(program: Program, found: Difference) -> Program:
    """Returns the program without the questions after the difference."""
    boots = list(program.boots[: found.boot + 1])
    boots[-1] = Boot(boots[-1].questions[: found.number + 1], boots[-1].jump)
    return Program(program.seed, tuple(boots))


def _leave_out_boots(search: _Search) -> None:
    """Removes boots, the shortest rest first: mostly only files carried by the last kexec matter."""
    for kept in range(1, len(search.best.boots)):
        if search.try_all([search.best.from_boot(len(search.best.boots) - kept)]):
            return


def _leave_out_strangers(search: _Search) -> None:
    search.try_all([related(search.best)])


def related(program: Program) -> Program:
    """Returns the questions that share a file or a session's name with the last one, directly or through others.

    It keeps those that open and close the device, fork and end, without which these cannot be asked.
    """
    flat = program.flat()
    wanted = _names(flat[-1][1])
    found = {len(flat) - 1}
    for position in range(len(flat) - 2, -1, -1):
        if (names := _names(flat[position][1])) & wanted:
            wanted |= names
            found.add(position)
    children = {name for position in found for name in flat[position][1].get("in", ())}
    for position, (_, question) in enumerate(flat):
        of_a_child = question.get("kid") in children or (question["do"] == "become" and question["in"][0] in children)
        of_the_device = question["do"] in ("open", "close") and not _names(question)
        if of_a_child or of_the_device:
            found.add(position)
    return program.with_questions([flat[position] for position in sorted(found)])


def _names(question: Question) -> set[str]:
    """Returns slots, maps and session names; not the device's, which everything shares."""
    names = {f"{question[key]}".partition("\0")[0] for key in _NAMING if key in question}
    for key in ("slots", "keep"):
        names.update(question.get(key, ()))
    return {name for name in names if not name.startswith("device")}


def _leave_out_questions(search: _Search) -> None:
    """Removes questions by delta debugging. The last question shows the difference, and stays."""
    pieces = 2
    while search.time_left and (length := len(search.best) - 1):
        start = search.best
        size = max(1, length // pieces)
        ranges = [(first, min(first + size, length)) for first in range(0, length, size)]
        shown = search.try_all([_without(start, [each]) for each in ranges])
        if len(shown) > 1:
            # Questions that can be missing alone can mostly be missing together: as many as possible.
            search.try_all([_without(start, [ranges[each] for each in shown[:count]]) for count in _counts(len(shown))])
        if not shown:
            if size == 1:
                return
            pieces *= 2


def _counts(most: int) -> list[int]:
    """Returns `most`, half of it, and so on, down to 2."""
    return [most, *_counts(most // 2)] if most >= 2 else []


def _without(program: Program, ranges: Sequence[tuple[int, int]]) -> Program:
    flat = program.flat()
    kept = [each for position, each in enumerate(flat) if not any(first <= position < end for first, end in ranges)]
    return program.with_questions(kept)
