"""Findings from the problems of the state directory and from the registry's doubts. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from luod.daemon.preflight.findings import finding
from luod.daemon.store.schema import Doubt
from luod.ipc.types.admin import Finding, Problem


def findings(problems: Iterable[Problem], file_error: str, doubts: Iterable[Doubt]) -> Iterator[Finding]:
    """Yields the findings of the state directory's problems, of the error with which its last write failed, and of the
    registry's doubts.
    """
    problems = list(problems)
    if file_error and not problems:
        remedy = "mend it (luoctl status says more), then ask for the update again"
        problems = [Problem("the registry's file", f"it could not be written: {file_error}", remedy)]
    if problems:
        yield finding(
            "state-directory",
            "; ".join(f"{each.path}: {each.what}" for each in problems),
            "the registry must be on the disk before the machine jumps: an update would be cancelled with its guests "
            "frozen, and a luod that dies now does not find its sessions again",
            "; ".join(each.remedy for each in problems),
        )
    refusing = [doubt for doubt in doubts if doubt.refuses]
    if refusing:
        kept = ", ".join(doubt.kept for doubt in refusing if doubt.kept)
        yield finding(
            "registry-incomplete",
            "; ".join(doubt.what for doubt in refusing),
            "there may be sessions that luod does not know of: they would be lost in the jump",
            "have every workload create or replace its sessions, and release the others; then ignore this finding"
            + (f". The bytes that luod did not understand are in {kept}" if kept else ""),
        )
