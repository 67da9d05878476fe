"""Every row that is marked as diverging names an entry of docs/divergences.md."""

from __future__ import annotations

import re
from pathlib import Path

from tests.conformance.conftest import ROOT


def test_every_mark_names_an_entry() -> None:
    text = (ROOT / "docs" / "divergences.md").read_text()
    entries = set(re.findall(r"^\| .* \| `(test_\w+)` \|$", text, re.MULTILINE))
    marked = set[str]()
    for file in Path(__file__).parent.glob("test_*.py"):
        marked.update(re.findall(r"""mark\.divergence\("([^"]+)\"""", file.read_text()))
    assert marked
    assert marked <= entries
