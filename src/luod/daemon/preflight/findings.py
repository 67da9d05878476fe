"""The findings of preflight: their names, on which scripts and operators rely, and their severities."""

from __future__ import annotations

from luod.errors import Refused
from luod.frozen import replace
from luod.ipc.types.admin import Finding
from luod.static import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

REFUSALS: Final = frozenset(
    {
        "image-unreadable",
        "image-not-loadable",
        "initrd-unusable",
        "luo-missing",
        "luo-format",
        "kho-missing",
        "kho-format",
        "handler-missing",
        "handler-format",
        "handler-not-loaded",
        "flb-format",
        "scratch-too-small",
        "liveupdate-off",
        "kho-off",
        "kexec-disabled",
        "kexec-load-limit",
        "incoming-unfinished",
        "participant-missing",
        "files-held",
        "contents-undeclared",
        "memory-preserve",
        "memory-unknown",
        "memory-retrieve",
        "sealed-memory",
        "state-directory",
        "registry-incomplete",
        "unbind-pending",
        "store-incomplete",
        "store-full",
        "participant-stopped",
        "shutdown-inhibited",
        "exitrd",
    }
)
WARNINGS: Final = frozenset(
    {
        "debugfs-missing",
        "formats-assumed",
        "scratch-unknown",
        "kind-unknown",
        "initrd-unreadable",
        "initrd-doubtful",
        "root-missing",
        "no-panic",
        "loads-not-counted",
        "no-watchdog",
        "systemd-unknown",
        "stores-dropped",
        "unit-sessions",
        "cold-reboot",
        "minimum-uptime",
    }
)
NAMES: Final = REFUSALS | WARNINGS
_LONGEST: Final = 200
"""Characters of a name in a sentence."""


def finding(name: str, what: str, why: str, remedy: str) -> Finding:
    """Returns a finding of this name, with its severity."""
    severity: Literal["refusal", "warning"] = "refusal" if name in REFUSALS else "warning"
    assert name in NAMES, name
    return Finding(name, severity, what, why, remedy)


def with_ignored(findings: Iterable[Finding], names: Collection[str]) -> list[Finding]:
    """Returns the findings, refusals first, with those marked `ignored` that the operator ignores."""
    marked = [replace(each, ignored=each.severity == "refusal" and each.name in names) for each in findings]
    return sorted(marked, key=lambda each: each.severity != "refusal")


def refusing(findings: Iterable[Finding]) -> list[Finding]:
    """Returns the refusals that are not ignored."""
    return [each for each in findings if each.severity == "refusal" and not each.ignored]


def refuse(findings: Iterable[Finding]) -> None:
    """Raises Refused (of io.luod.Admin) for findings that prevent the update: with the first, and the names of the
    rest.
    """
    refusals = refusing(findings)
    if not refusals:
        return
    first, *others = refusals
    more = f"; and {listed([each.name for each in others])}" if others else ""
    raise Refused(
        message=f"{first.name}: {first.what}{more}",
        hint=f"{first.remedy}; `luoctl check` shows all findings; --ignore-finding {first.name} proceeds despite this "
        "one",
    )


def require_names(names: Iterable[str]) -> None:
    """Raises Refused when a name is not a finding's."""
    unknown = set(names) - NAMES
    if unknown:
        raise Refused(message=f"there is no finding {listed(unknown)}", hint="`luoctl check` shows the findings")


def listed(names: Collection[str]) -> str:
    """Returns the first five, for a sentence. Participants send names of any length, of which the start is shown."""
    some = [name if len(name) <= _LONGEST else name[: _LONGEST - 1] + "…" for name in sorted(names)[:5]]
    return ", ".join(some) + (", …" if len(names) > 5 else "")
