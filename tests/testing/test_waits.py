"""Tests, programs of tests, the demo, examples and benchmarks wait with `eventually`: no sleep, no busy poll."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[2]
FOLDERS: Final = ("tests", "demo", "examples", "bench", "src/luod/testing")

EXCEPTIONS: Final = {
    "bench/custody.py": "measures the time until luod answers: 20 ms between two looks would be part of it",
    "bench/jump.py": "gives luod time for the other votes: the time from the last one is measured",
    "bench/qemu.py": "asks a QEMU over its monitor: the time until it answers is measured",
    "bench/vfio.py": "measures the time until a device has finished",
    "src/luod/testing/waiting.py": "`eventually` itself",
    "tests/agents/qemu/carried/test_devices.py": "reads a socket to its end, which comes when QEMU ends",
    "tests/hostile/test_sockets.py": "reads a socket to its end, with the socket's timeout",
    "tests/ipc/server/test_hostile_clients.py": "reads a socket to its end, which comes when the server hangs up",
    "tests/ipc/server/test_turns.py": "keeps the processor for 20 ms, which is what a turn is about",
    "tests/programs/updating.py": "an operator that starts updates until its machine jumps",
    "tests/testing/test_agent.py": "reads messages up to the one it is about; the channel has a timeout",
}
"""Files that sleep or poll, and why they may."""
SLEEPS: Final = ("time.sleep", "sleep", "asyncio.sleep")


def waits(tree: ast.Module) -> Iterator[int]:
    """Yields the lines of calls of time.sleep and asyncio.sleep, and of `while` loops that do nothing but ask again.

    `asyncio.sleep(0)` is no wait: it lets the other tasks run.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in SLEEPS and ast.unparse(node) != "asyncio.sleep(0)":
            yield node.lineno
        if isinstance(node, ast.While) and all(is_nothing(statement) for statement in node.body):
            yield node.lineno


def is_nothing(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Pass) or (
        isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
    )


def files() -> list[str]:
    return [str(path.relative_to(ROOT)) for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]


def test_only_the_named_files_sleep_or_poll() -> None:
    waiting = {file: [*waits(ast.parse((ROOT / file).read_text(encoding="utf-8")))] for file in files()}
    found = {file: lines for file, lines in waiting.items() if lines}
    assert {file: lines for file, lines in found.items() if file not in EXCEPTIONS} == {}
    assert [file for file in EXCEPTIONS if file not in found] == []


@pytest.mark.parametrize(
    "source",
    [
        "while busy():\n    pass",
        "while True:\n    time.sleep(1)",
        "while busy():\n    'until it is not'",
        "while busy():\n    await asyncio.sleep(0.1)",
    ],
)
def test_a_sleep_and_a_busy_poll_are_found(source: str) -> None:
    assert [*waits(ast.parse(source))]
