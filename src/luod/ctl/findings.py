"""How `luoctl check` and `luoctl update` show what luod found before an update. JSON is the caller's."""

from __future__ import annotations

from collections.abc import Iterable

from luod.ctl.output import Output, escaped
from luod.ipc.types.admin import Finding


def show(output: Output, findings: Iterable[Finding]) -> None:
    """A paragraph for each, for people."""
    for line in lines(findings):
        output.line(line)


def lines(findings: Iterable[Finding], *, brief: bool = False) -> list[str]:
    """What was found, why it matters, and what to do; in `brief` of warnings the first only."""
    found = []
    for finding in findings:
        kind = "ignored" if finding.ignored else "REFUSED" if finding.refuses else "warning"
        found.append(f"{kind:<8} {escaped(finding.name)}: {escaped(finding.what)}")
        if not (brief and kind == "warning"):
            found += [f"         why: {escaped(finding.why)}", f"         do:  {escaped(finding.remedy)}"]
    return found
