"""`luoctl metrics`: what luod is doing, and how the last update went, as Prometheus reads it.

For node_exporter's textfile collector (`--output`), or whatever else runs a command. luod itself serves no metrics:
it has no network. No name of a session is a label, so that a fleet's series do not grow with its guests.
No other module imports prometheus-client.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from luod.ipc.types.admin import Status, UpdateTimes

STATES: Final = ("idle", "preparing", "freezing", "jumping", "restoring", "broken")
OUTCOMES: Final = ("preparing", "freezing", "jumping", "restoring", "done", "cancelled")


class _Luod(Collector):
    def __init__(self, status: Status | None, timeline: UpdateTimes | None) -> None:
        self._status = status
        self._timeline = timeline

    def collect(self) -> Iterator[Metric]:
        yield GaugeMetricFamily("luod_up", "Whether luod answers.", value=self._status is not None)
        if self._status is not None:
            yield from _now(self._status)
        if self._timeline is not None:
            yield from _last_update(self._timeline)


def text(status: Status | None, timeline: UpdateTimes | None) -> bytes:
    """Prometheus' text format. `status` None: luod cannot be reached. `timeline` None: there was no update yet."""
    registry = CollectorRegistry()
    registry.register(_Luod(status, timeline))
    return generate_latest(registry)


def _now(status: Status) -> Iterator[Metric]:
    yield InfoMetricFamily("luod", "Which luod it is.", value={"version": status.version})
    yield _one_of("luod_state", "What luod is doing.", "state", STATES, status.state)
    yield GaugeMetricFamily("luod_boot", "Live updates that luod has seen, plus one.", value=status.boot)
    yield GaugeMetricFamily("luod_kernel_loaded", "Whether a next kernel was loaded.", value=status.kernel_loaded)
    sessions = GaugeMetricFamily("luod_sessions", "Sessions, by direction and state.", labels=("direction", "state"))
    sessions.add_metric(("outgoing", "held"), status.sessions)
    for state, count in (("waiting", status.waiting), ("retrieved", status.retrieved), ("torn", status.torn)):
        sessions.add_metric(("incoming", state), count)
    yield sessions
    yield GaugeMetricFamily("luod_stuck_sessions", "Sessions whose reaper failed.", value=len(status.stuck))
    yield GaugeMetricFamily("luod_participants", "Workloads that take part in updates.", value=status.participants)
    yield GaugeMetricFamily("luod_held_files", "Files handed over, lost in an update.", value=status.held_files)
    yield CounterMetricFamily("luod_updates_begun", "Updates that were begun.", value=status.generation)
    problems = GaugeMetricFamily("luod_problems", "What is wrong with luod's own files, by place.", labels=("of",))
    problems.add_metric(("state_directory",), len(status.state_directory))
    problems.add_metric(("registry",), len(status.registry))
    yield problems
    good = status.policy_error is None
    yield GaugeMetricFamily("luod_policy_good", "Whether the policy file on disk is in force.", value=good)
    if status.restore_seconds_left is not None:
        what = "Seconds until incoming sessions that nobody claimed are reaped."
        yield GaugeMetricFamily("luod_restore_seconds_left", what, value=status.restore_seconds_left)


def _last_update(told: UpdateTimes) -> Iterator[Metric]:
    yield GaugeMetricFamily("luod_last_update_asked_timestamp_seconds", "When it was asked for.", value=told.asked)
    yield _one_of("luod_last_update_state", "How far the last update got.", "state", OUTCOMES, told.state)
    phases = GaugeMetricFamily("luod_last_update_phase_seconds", "How long its phases took.", labels=("phase",))
    starts = [("preparing", 0.0), ("freezing", told.freezing), ("jumping", told.jumping), ("restoring", told.arrived)]
    for number, (phase, start) in enumerate(starts):
        stop = next((later for _, later in starts[number + 1 :] if later is not None), told.ended)
        if start is not None and stop is not None:
            phases.add_metric((phase,), max(stop - start, 0.0))
    yield phases
    if told.blackout is not None:
        what = "The longest that one of its guests stood still."
        yield GaugeMetricFamily("luod_last_update_blackout_seconds", what, value=told.blackout)
    if told.error is not None:
        what = "By how much times over the jump may be wrong."
        yield GaugeMetricFamily("luod_last_update_clock_error_seconds", what, value=told.error)
    standings = GaugeMetricFamily("luod_last_update_sessions", "Its sessions, by standing.", labels=("standing",))
    for standing in sorted({session.standing for session in told.sessions}):
        standings.add_metric((standing,), sum(session.standing == standing for session in told.sessions))
    yield standings
    carried = sum(session.bytes for session in told.sessions)
    yield GaugeMetricFamily("luod_last_update_bytes", "Bytes of the files that were declared.", value=carried)


def _one_of(name: str, what: str, label: str, known: tuple[str, ...], value: str) -> GaugeMetricFamily:
    """1 for the one that holds, 0 for the others; one that is not known is told too."""
    family = GaugeMetricFamily(name, what, labels=(label,))
    for each in dict.fromkeys((*known, value)):
        family.add_metric((each,), each == value)
    return family
