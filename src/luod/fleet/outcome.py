"""The report of a rehearsal: what became of each host, judged by the host itself and by Ansible. Pure.

`luod.decode` reads the annotations.
"""

from collections.abc import Mapping, Sequence

from luod.fleet.ansible import Recap
from luod.frozen import frozen
from luod.ipc.types.admin import UpdateTimes
from luod.static import Literal

Standing = Literal["updated", "unchanged", "refused", "incomplete", "lost", "untouched"]
MEANINGS: Mapping[Standing, str] = {
    "updated": "it runs the next kernel with all its guests",
    "unchanged": "nothing was to be done, or check mode did nothing",
    "refused": "it runs its old kernel with all its guests, and Ansible failed",
    "incomplete": "it runs the next kernel, and not all its guests were restored",
    "lost": "it does not answer any more",
    "untouched": "the roll-out ended before it",
}
"""The standings, with their meanings."""
FORMAT = 1


@frozen
class Seen:
    """What a host said after the roll-out. `left`: incoming sessions that were not claimed. `torn`: those that are
    incomplete. `loaded`: a next kernel is loaded. `findings`: of `luoctl check`.
    """

    boots: int
    left: int
    torn: int
    loaded: bool = False
    timeline: UpdateTimes | None = None
    findings: tuple[str, ...] = ()


@frozen
class HostReport:
    """A host after the roll-out. `boots` is 1 without a kexec, 0 if it is lost. `blackout`: the longest of its guests,
    in seconds. `reason`: Ansible's text of a failure. `changed`: tasks that changed something. `loaded`: a next kernel
    is loaded, so that a reboot would start it. `timeline`: of its last update, as in `luoctl timeline`. `findings`: the
    names of those of `luoctl check` after the roll-out.
    """

    name: str
    standing: Standing
    boots: int
    fault: str | None = None
    reason: str | None = None
    changed: int = 0
    loaded: bool = False
    blackout: float | None = None
    timeline: UpdateTimes | None = None
    findings: tuple[str, ...] = ()


@frozen
class Report:
    """A rehearsal. `asked`: its beginning, in seconds since 1970. `seconds`: of the roll-out. `status`: Ansible's exit
    status. `stopped_at`: the failed hosts after which the roll-out ended, if any is untouched. `format`: of the file.
    """

    asked: float
    seconds: float
    playbook: str
    status: int
    hosts: tuple[HostReport, ...]
    stopped_at: tuple[str, ...] = ()
    format: int = FORMAT

    def of(self, standing: Standing) -> tuple[HostReport, ...]:
        return tuple(host for host in self.hosts if host.standing == standing)


def judge(name: str, seen: Seen | None, recap: Recap | None, fault: str | None = None) -> HostReport:
    """Returns the report of a host. `seen`: None if it does not answer. `recap`: None if Ansible did not come to it."""
    reason = None if recap is None else recap.reason
    changed = 0 if recap is None else recap.changed
    if seen is None:
        return HostReport(name, "lost", 0, fault, reason, changed)
    standing: Standing
    if seen.boots > 1:
        standing = "incomplete" if seen.left or seen.torn else "updated"
    elif recap is None:
        standing = "untouched"
    else:
        standing = "refused" if recap.failed else "unchanged"
    blackout = None if seen.timeline is None else seen.timeline.blackout
    return HostReport(
        name,
        standing,
        seen.boots,
        fault,
        reason,
        changed,
        seen.loaded,
        blackout=blackout,
        timeline=seen.timeline,
        findings=seen.findings,
    )


def stopped_at(hosts: Sequence[HostReport]) -> tuple[str, ...]:
    """Returns the failed hosts after which no other was touched; () if all were touched."""
    if not any(host.standing == "untouched" for host in hosts):
        return ()
    return tuple(host.name for host in hosts if host.standing in ("refused", "incomplete", "lost"))
