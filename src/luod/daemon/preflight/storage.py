"""Findings from the problems of the state directory and from the registry's doubts. Pure."""

from __future__ import annotations

from luod.daemon.preflight.findings import finding
from luod.ipc.types.admin import Finding, Problem
from luod.static import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from luod.daemon.store.schema import Doubt


def findings(problems: Iterable[Problem], file_error: str, doubts: Iterable[Doubt]) -> Iterator[Finding]:
    """Yields the findings of the state directory's problems, of the error with which its last write failed, and of the
    registry's doubts.
    """
    problems = list(problems)
    if file_error and not problems:
        remedy = "see `luoctl status`, fix the cause, then update again"
        problems = [Problem("the registry's file", f"it could not be written: {file_error}", remedy)]
    if problems:
        yield finding(
            "state-directory",
            "; ".join(f"{each.path}: {each.what}" for each in problems),
            "the registry must be on the disk before the kexec: an update would be cancelled with its guests "
            "frozen, and luod would lose track of its sessions if it died now",
            "; ".join(each.remedy for each in problems),
        )
    refusing = [doubt for doubt in doubts if doubt.refuses]
    if refusing:
        kept = ", ".join(doubt.kept for doubt in refusing if doubt.kept)
        yield finding(
            "registry-incomplete",
            "; ".join(doubt.what for doubt in refusing),
            "there may be sessions that luod does not know; they would be lost in the kexec",
            "let every workload create or replace its sessions, release the others, then ignore this finding"
            + (f". The copy that luod could not read is kept as {kept}" if kept else ""),
        )
