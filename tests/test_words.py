"""The prose of the source is plain: docstrings of functions begin with a verb, and riddles do not return."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
PLACES = [
    "src/luod/emulator",
    "src/luod/image",
    "src/luod/memory",
    "src/luod/liveupdate",
    "src/luod/uapi",
    "src/luod/aio",
    "src/luod/testing",
    "src/luod/ipc",
    "src/luod/daemon",
    "src/luod/ctl",
    "bench",
    "demo",
    "examples",
    *(
        f"src/luod/{name}.py"
        for name in (
            "__init__",
            "arguments",
            "client",
            "decode",
            "errors",
            "frozen",
            "kexec",
            "linux",
            "manifest",
            "participant",
            "pci",
            "session_name",
            "vfio",
        )
    ),
]

TESTS = ["tests"]
"""Its fixtures and helpers are under the rule of the verb, too. A test's docstring states a fact instead."""

NOT_VERBS = {"always", "as", "his", "its", "this", "thus", "unless", "whose", "yes"}
"""Words that end as a verb in the third person does."""
OTHER_BEGINNINGS = {"See"}

RIDDLES = re.compile(
    r"\b(?:(?:is|are) none|none of (?:it|them|these|those)|(?i:be had|anew|is owed|stands still|nobody(?!-)"
    r"|somebody|whoever|who has not|give or take|all the same|said to be|called by))\b"
)
QUESTION = re.compile(r"(?:What|Who|Whose|Whom)\b")
"""A docstring that begins with one of these has a clause for its subject."""

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef


class Text(NamedTuple):
    line: int
    words: str


def functions(tree: ast.Module) -> Iterator[tuple[FunctionNode, str]]:
    """Yields the functions that have a docstring, except `__init__`, whose docstring may list its arguments."""
    for node in ast.walk(tree):
        if isinstance(node, FunctionNode) and node.name != "__init__":
            text = ast.get_docstring(node)
            if text is not None:
                yield node, text


def begins_with_a_verb(text: str) -> bool:
    """Returns whether the first word has the ending of a verb in the third person."""
    word = re.split(r"[\s.,:;]", text, maxsplit=1)[0]
    return word in OTHER_BEGINNINGS or (word.isalpha() and word.endswith("s") and word.lower() not in NOT_VERBS)


def docstrings(tree: ast.Module) -> Iterator[Text]:
    """Yields the strings that stand alone: docstrings, and those below a variable."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield Text(node.lineno, node.value.value)


def prose(source: str) -> Iterator[Text]:
    """Yields the docstrings, the messages and the comments of a module."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield Text(node.lineno, " ".join(node.value.split()))
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield Text(token.start[0], token.string)


def modules() -> list[Path]:
    """Returns the modules whose prose is under the rules."""
    places = [ROOT / place for place in PLACES]
    return sorted({path for place in places for path in ([place] if place.is_file() else place.rglob("*.py"))})


@pytest.mark.parametrize("text", ["Returns the name.", "Raises Errno.", "Does nothing: it has no holes.", "See `x`."])
def test_a_verb_is_recognised(text: str) -> None:
    assert begins_with_a_verb(text)


@pytest.mark.parametrize(
    "text", ["The name.", "Whether it is open.", "This is a name.", "`name` is text.", "Its name."]
)
def test_another_beginning_is_refused(text: str) -> None:
    assert not begins_with_a_verb(text)


def test_a_riddle_is_found_in_docstrings_messages_and_comments() -> None:
    source = '"""There is none: nobody has it."""\nx = f"made anew {1}"\n# Whoever asks.\n'
    assert [text.line for text in prose(source) if RIDDLES.search(text.words)] == [1, 2, 3]


def test_docstrings_of_functions_begin_with_a_verb() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{node.lineno}: {text.splitlines()[0]}"
        for path in modules()
        for node, text in functions(ast.parse(path.read_text(encoding="utf-8")))
        if not begins_with_a_verb(text)
    ]
    assert wrong == []


def test_docstrings_of_fixtures_and_helpers_begin_with_a_verb() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{node.lineno}: {text.splitlines()[0]}"
        for place in TESTS
        for path in sorted((ROOT / place).rglob("*.py"))
        for node, text in functions(ast.parse(path.read_text(encoding="utf-8")))
        if not node.name.startswith("test_") and not begins_with_a_verb(text)
    ]
    assert wrong == []


def test_docstrings_do_not_begin_with_a_question_word() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{text.line}: {text.words.splitlines()[0]}"
        for path in modules()
        for text in docstrings(ast.parse(path.read_text(encoding="utf-8")))
        if QUESTION.match(text.words)
    ]
    assert wrong == []


def test_the_prose_has_no_riddles() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{text.line}: {found[0]}"
        for path in modules()
        for text in prose(path.read_text(encoding="utf-8"))
        if (found := RIDDLES.search(text.words))
    ]
    assert wrong == []
