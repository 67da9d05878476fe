"""The text of `luoctl metrics`: the state of luod and the last update in Prometheus' format.

luod has no network: node_exporter's textfile collector, or a program that runs a command, collects the text. Names of
sessions are not labels, so that the number of series does not grow with the guests. No other module imports
prometheus-client.
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
    """Returns the text. `status` is None if luod cannot be reached, `timeline` before the first update."""
    registry = CollectorRegistry()
    registry.register(_Luod(status, timeline))
    return generate_latest(registry)


def _now(status: Status) -> Iterator[Metric]:
    yield InfoMetricFamily("luod", "Version of luod.", value={"version": status.version})
    yield _one_of("luod_state", "State of luod: 1 for the current one.", "state", STATES, status.state)
    yield GaugeMetricFamily("luod_boot", "Number of this boot: live updates so far, plus one.", value=status.boot)
    yield GaugeMetricFamily(
        "luod_kernel_loaded", "Whether luod has loaded the next kernel.", value=status.kernel_loaded
    )
    sessions = GaugeMetricFamily(
        "luod_sessions", "Number of sessions by direction and state.", labels=("direction", "state")
    )
    sessions.add_metric(("outgoing", "held"), status.sessions)
    for state, count in (("waiting", status.waiting), ("retrieved", status.retrieved), ("torn", status.torn)):
        sessions.add_metric(("incoming", state), count)
    yield sessions
    pinned = GaugeMetricFamily(
        "luod_sessions_bytes", "Bytes that sessions keep in memory, as declared, by direction.", labels=("direction",)
    )
    pinned.add_metric(("outgoing",), status.outgoing_bytes)
    pinned.add_metric(("incoming",), status.incoming_bytes)
    yield pinned
    yield GaugeMetricFamily(
        "luod_stuck_sessions", "Number of incoming sessions that the reaper could not discard.", value=len(status.stuck)
    )
    yield GaugeMetricFamily("luod_participants", "Number of participants connected to luod.", value=status.participants)
    yield GaugeMetricFamily(
        "luod_held_files", "Number of stashed files, which an update loses.", value=status.held_files
    )
    yield CounterMetricFamily(
        "luod_updates_begun", "Number of updates started since the machine was booted.", value=status.generation
    )
    problems = GaugeMetricFamily(
        "luod_problems",
        "Number of problems of the state directory, the registry and PID 1's store, and of what an update left behind.",
        labels=("of",),
    )
    problems.add_metric(("state_directory",), len(status.state_directory))
    problems.add_metric(("registry",), len(status.registry))
    problems.add_metric(("fd_store",), len(status.fd_store))
    problems.add_metric(("undo",), len(status.undo))
    yield problems
    good = status.policy_error is None
    yield GaugeMetricFamily("luod_policy_good", "Whether the policy file is valid and in force.", value=good)
    if status.restore_seconds_left is not None:
        yield GaugeMetricFamily(
            "luod_restore_seconds_left",
            "Seconds until unclaimed incoming sessions are discarded.",
            value=status.restore_seconds_left,
        )


def _last_update(told: UpdateTimes) -> Iterator[Metric]:
    yield GaugeMetricFamily(
        "luod_last_update_asked_timestamp_seconds", "Start of the last update, in seconds since 1970.", value=told.asked
    )
    yield _one_of(
        "luod_last_update_state", "State of the last update: 1 for the current one.", "state", OUTCOMES, told.state
    )
    phases = GaugeMetricFamily(
        "luod_last_update_phase_seconds", "Duration of each phase of the last update.", labels=("phase",)
    )
    starts = [("preparing", 0.0), ("freezing", told.freezing), ("jumping", told.jumping), ("restoring", told.arrived)]
    for number, (phase, start) in enumerate(starts):
        stop = next((later for _, later in starts[number + 1 :] if later is not None), told.ended)
        if start is not None and stop is not None:
            phases.add_metric((phase,), max(stop - start, 0.0))
    yield phases
    if told.blackout is not None:
        yield GaugeMetricFamily(
            "luod_last_update_blackout_seconds",
            "Longest blackout of a session in the last update.",
            value=told.blackout,
        )
    if told.error is not None:
        yield GaugeMetricFamily(
            "luod_last_update_clock_error_seconds",
            "Uncertainty of times across the kexec of the last update.",
            value=told.error,
        )
    standings = GaugeMetricFamily(
        "luod_last_update_sessions", "Number of sessions in the last update by standing.", labels=("standing",)
    )
    for standing in sorted({session.standing for session in told.sessions}):
        standings.add_metric((standing,), sum(session.standing == standing for session in told.sessions))
    yield standings
    carried = sum(session.bytes for session in told.sessions)
    yield GaugeMetricFamily(
        "luod_last_update_bytes", "Bytes that participants of the last update declared.", value=carried
    )


def _one_of(name: str, what: str, label: str, known: tuple[str, ...], value: str) -> GaugeMetricFamily:
    """Returns a metric with 1 for `value` and 0 for the other `known` values."""
    family = GaugeMetricFamily(name, what, labels=(label,))
    for each in dict.fromkeys((*known, value)):
        family.add_metric((each,), each == value)
    return family
