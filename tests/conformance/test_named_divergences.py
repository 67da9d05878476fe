"""Every row that is marked as diverging names an entry of docs/divergences.md."""

from __future__ import annotations

import re
from pathlib import Path

from tests.conformance.conftest import ROOT


def test_every_mark_names_an_entry() -> None:
    text = (ROOT / "docs" / "divergences.md").read_text()
    entries = {match.lower() for match in re.findall(r"^#+ (?:\d+\. )?(.+?)\s*$", text, re.MULTILINE)}
    marked = set[str]()
    for file in Path(__file__).parent.glob("test_*.py"):
        marked.update(re.findall(r"""mark\.divergence\("([^"]+)\"""", file.read_text()))
    assert marked
    missing = sorted(name for name in marked if name.lower() not in entries)
    assert not missing, f"not in docs/divergences.md: {missing}"
