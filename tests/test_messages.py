"""docs/messages.md is what the code says, and what it says is plain."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/messages.md"
RIDDLES = (
    "is none",
    "are none",
    "(?<!there )is no",
    "none of",
    "nobody",
    "whoever",
    "anew",
    "stands still",
    "give or take",
    "be had",
    "jumps",
)
"""Phrases that an operator would have to read twice."""


def test_the_page_is_what_the_code_says() -> None:
    made = subprocess.run(
        [sys.executable, ROOT / "scripts/list-messages", "--print"], capture_output=True, text=True, check=True
    )
    assert made.stdout == PAGE.read_text(), "run scripts/list-messages"


@pytest.mark.parametrize("phrase", RIDDLES)
def test_no_text_is_a_riddle(phrase: str) -> None:
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith("| ")]
    assert len(rows) > 300
    assert not [row for row in rows if re.search(rf"\b{phrase}\b", row)]


def test_a_command_in_a_text_has_both_its_marks() -> None:
    odd = [line for line in PAGE.read_text().splitlines() if line.startswith("| ") and line.count("`") % 2]
    assert odd == []
