"""Shows the report of a rehearsal as text."""

from __future__ import annotations

from collections.abc import Iterator

from luod.ctl.output import counted, escaped
from luod.ctl.timeline import duration
from luod.fleet.outcome import MEANINGS, HostReport, Report


def lines(report: Report) -> Iterator[str]:
    """Yields the report: a line for each host, then the sums."""
    width = max([4, *(len(escaped(host.name)) for host in report.hosts)])
    yield f"{'HOST':<{width}}  {'STANDING':<10}  {'BLACKOUT':<8}  NOTE"
    for host in report.hosts:
        blackout = "" if host.blackout is None else duration(host.blackout)
        yield f"{escaped(host.name):<{width}}  {host.standing:<10}  {blackout:<8}  {note(host)}".rstrip()
    yield ""
    yield from summary(report)


def summary(report: Report) -> Iterator[str]:
    """Yields the sums: hosts by standing, where the roll-out stopped, the blackouts of guests."""
    for standing, meaning in MEANINGS.items():
        if found := report.of(standing):
            yield f"{counted(len(found), 'host')} {standing}: {meaning}"
    if report.stopped_at:
        yield f"the roll-out stopped at {', '.join(map(escaped, report.stopped_at))}"
    blackouts = blackouts_of(report)
    if blackouts:
        median, longest = duration(blackouts[len(blackouts) // 2]), duration(blackouts[-1])
        yield f"blackout of {counted(len(blackouts), 'guest')}: {median} in the middle, {longest} at most"
    yield f"the roll-out took {duration(report.seconds)}; ansible-playbook ended with status {report.status}"


def blackouts_of(report: Report) -> list[float]:
    """Returns the blackouts of all guests that run in the next kernel, in order."""
    timelines = [host.timeline for host in report.hosts if host.timeline is not None and host.boots > 1]
    return sorted(each.blackout for told in timelines for each in told.sessions if each.blackout is not None)


def note(host: HostReport) -> str:
    """Returns the fault of a host and why it failed, "" for a host without either."""
    words = [] if host.fault is None else [f"fault: {host.fault}"]
    if host.reason:
        words.append(escaped(host.reason))
    if host.loaded:
        words.append("a kernel is left loaded")
    return "; ".join(words)
