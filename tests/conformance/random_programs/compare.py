"""Compares the answers of two machines, question by question, and names the allowed differences.

`ALLOWED` has them: each rule names its row of docs/divergences.md, by that row's test, and holds for exactly one
question and one pair of answers. `hardware` has those of devices. Anything else is a difference.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from stat import S_IFREG
from typing import Any, Final

from tests.conformance.random_programs import hardware
from tests.conformance.random_programs.play import Answers
from tests.conformance.random_programs.program import Answer, Program, Question

OK: Final[Answer] = {"ok": None}


@dataclass(frozen=True)
class Allowed:
    """A probe of a file of kind `on`, and the one pair of answers that may differ. None: any answer of that key."""

    row: str
    what: str
    on: str
    real: Mapping[str, Any]
    emulated: Mapping[str, Any]

    def fits(self, question: Question, real: Answer, emulated: Answer) -> bool:
        if question["do"] != "probe" or question["what"] != self.what:
            return False
        said = (real.get("ok"), emulated.get("ok"))
        return said == ({"on": self.on, **self.real}, {"on": self.on, **self.emulated})


def _session(row: str, real: str, emulated: Mapping[str, Any], *what: str) -> list[Allowed]:
    return [Allowed(row, each, "session", {"errno": real}, emulated) for each in what]


READS = "test_session_reads_and_seeks"
SHOWN = "test_session_is_shown_as_a_memfd"
FOREIGN = "test_session_with_foreign_ioctls"
NODE = "test_node_is_a_regular_file"
EPOLL = "test_node_with_epoll_and_fionread"
GROWS = "test_preserved_memfd_grows_by_a_write"

ALLOWED: Final[tuple[Allowed, ...]] = (
    *_session(READS, "EINVAL", {"ok": 0}, "read"),
    *_session(READS, "EINVAL", {"errno": "EPERM"}, "write", "grow"),
    *_session(READS, "EINVAL", OK, "fsync", "ftruncate"),
    *_session(READS, "ESPIPE", {"ok": 0}, "lseek"),
    *_session(READS, "ENODEV", OK, "map"),
    *_session(SHOWN, "ENXIO", OK, "reopen"),
    Allowed(SHOWN, "format", "session", {"ok": 0}, {"ok": S_IFREG}),
    Allowed(SHOWN, "getfl", "session", {"ok": 0o2}, {"ok": 0o100002}),
    *_session(FOREIGN, "EINVAL", {"errno": "ENOTTY"}, "TCGETS", "TIOCGWINSZ", "0xbb00"),
    *_session(FOREIGN, "EINVAL", {"ok": 0}, "FIONREAD"),
    Allowed(NODE, "format", "device", {"ok": 0o020000}, {"ok": S_IFREG}),
    Allowed(EPOLL, "epoll", "device", {"errno": "EPERM"}, OK),
    Allowed(EPOLL, "FIONREAD", "device", {"errno": "EINVAL"}, {"ok": 0}),
    # With F_SEAL_GROW, across a page's end: a memfd that is not frozen writes the part inside.
    Allowed(GROWS, "extend", "memory", {"errno": "EPERM"}, {"ok": 1}),
    Allowed("test_name_of_a_retrieved_file", "link", "memory", {"ok": "/ (deleted)"}, {"ok": "/memfd: (deleted)"}),
)


def allowed(question: Question, real: Answer, emulated: Answer) -> str | None:
    """Returns the row of docs/divergences.md that allows it, or None."""
    if rule := next((rule for rule in ALLOWED if rule.fits(question, real, emulated)), None):
        return rule.row
    return SHOWN if _shows_a_session(question, real, emulated) else hardware.allowed(question, real, emulated)


def _shows_a_session(question: Question, real: Answer, emulated: Answer) -> bool:
    """Returns whether the answers are links of a session. They have its name in them, the same for both."""
    if question["do"] != "probe" or question["what"] != "link" or not {"ok"} == set(real) == set(emulated):
        return False
    link, name = real["ok"], str(real["ok"].get("ok")).removeprefix("anon_inode:[luo_session] ")
    return (link, emulated["ok"]) == (
        {"on": "session", "ok": f"anon_inode:[luo_session] {name}"},
        {"on": "session", "ok": f"/memfd:[luo_session] {name} (deleted)"},
    )


@dataclass(frozen=True)
class Difference:
    """Answers to one question that may not differ. `boot` and `number` count from 0."""

    boot: int
    number: int
    question: Question
    real: Answer
    emulated: Answer

    @property
    def kind(self) -> tuple[str, str, str]:
        """Returns the identity of a difference in two programs: verb and errno, not values."""
        return self.question["do"], _errno(self.real), _errno(self.emulated)


def _errno(answer: Answer) -> str:
    said = answer.get("ok")
    if isinstance(said, dict) and "errno" in said:
        return str(said["errno"])
    return str(answer.get("errno", "ok" if "ok" in answer else "wrong"))


@dataclass(frozen=True)
class Comparison:
    """Differences in the order of the program, and the count of each row of docs/divergences.md."""

    differences: tuple[Difference, ...]
    allowed: Counter[str]


def compare(program: Program, real: Answers, emulated: Answers, *, strict: bool = False) -> Comparison:
    """Returns the comparison. `strict`: nothing is allowed, as between two machines of one kind."""
    differences: list[Difference] = []
    seen = Counter[str]()
    for boot, questions in enumerate(program.boots):
        pairs: Sequence[tuple[Answer, Answer]] = tuple(zip(real.boots[boot], emulated.boots[boot], strict=True))
        for number, (question, (one, other)) in enumerate(zip(questions.questions, pairs, strict=True)):
            if one == other:
                continue
            row = None if strict else allowed(question, one, other)
            if row is None:
                differences.append(Difference(boot, number, question, one, other))
            else:
                seen[row] += 1
    return Comparison(tuple(differences), seen)
