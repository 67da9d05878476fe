"""Formats the findings of luod as text for `luoctl check` and `luoctl update`. The verbs print JSON themselves."""

from __future__ import annotations

from collections.abc import Iterable

from luod.ctl.output import Output, escaped
from luod.ipc.types.admin import Finding


def show(output: Output, findings: Iterable[Finding]) -> None:
    """Prints the findings as text."""
    for line in lines(findings):
        output.line(line)


def lines(findings: Iterable[Finding], *, brief: bool = False) -> list[str]:
    """Returns finding, reason and remedy as lines; with `brief`, a warning has only the first of them."""
    found = []
    for finding in findings:
        kind = "ignored" if finding.ignored else "REFUSED" if finding.refuses else "warning"
        found.append(f"{kind:<8} {escaped(finding.name)}: {escaped(finding.what)}")
        if not (brief and kind == "warning"):
            found += [f"         why: {escaped(finding.why)}", f"         do:  {escaped(finding.remedy)}"]
    return found
