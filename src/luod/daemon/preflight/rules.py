"""The rules of preflight: the findings of each, its facts, and the moment of its last application.

A rule is a function of its facts, and is applied again as soon as one of them has another version. So reused findings
equal findings from all present facts. docs/design.md shows this table.

`luod.daemon.preflight.check` observes the facts, and applies the rules.
"""

from __future__ import annotations

from luod.daemon.preflight import devices, limits, next_kernel, state, storage, ways
from luod.daemon.preflight.facts import Facts, files, kinds, unattended
from luod.daemon.preflight.facts import next_kernel as following
from luod.daemon.preflight.findings import finding
from luod.frozen import frozen
from luod.static import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from luod.daemon.preflight.facts import FactName
    from luod.ipc.types.admin import Finding

    Moment = Literal["request", "freezing", "jumping"]

MOMENTS: Final[tuple[Moment, ...]] = ("request", "freezing", "jumping")
"""Moments of an update: its request, right before guests are frozen, right before reboot(2)."""


@frozen
class Rule:
    """`last` is the last moment of an update at which the rule is applied."""

    findings: tuple[str, ...]
    facts: tuple[FactName, ...]
    last: Moment
    apply: Callable[[Facts], Iterator[Finding]]


def _command_line(facts: Facts) -> Iterator[Finding]:
    found = following(facts)
    if found is not None:
        yield from next_kernel.command_line(found)


def _formats(facts: Facts) -> Iterator[Finding]:
    found = following(facts)
    if found is not None:
        yield from next_kernel.formats(found, facts.running, kinds(facts))


def _scratch(facts: Facts) -> Iterator[Finding]:
    found = following(facts)
    if found is not None:
        yield from next_kernel.scratch(found, facts.running)


def _kernel(facts: Facts) -> Iterator[Finding]:
    if facts.kernel.content is not None:
        yield from next_kernel.loadable(facts.kernel.content)
    else:
        what, remedy = facts.kernel.unreadable
        yield finding(
            "image-unreadable",
            f"the next kernel's image cannot be read: {what}",
            "luod cannot tell whether it can restore the sessions",
            remedy,
        )


def _initrd(facts: Facts) -> Iterator[Finding]:
    disk, found = facts.initrd, following(facts)
    if disk is not None and disk.unusable[0]:
        yield finding(
            "initrd-unusable",
            disk.unusable[0],
            "the next kernel would boot without it, or with a part of it, and most systems then fail",
            disk.unusable[1],
        )
    if disk is not None and disk.unreadable[0]:
        yield finding(
            "initrd-unreadable",
            f"luod cannot read the initial RAM disk: {disk.unreadable[0]}",
            "it may be damaged, or may not load the modules with the handlers",
            disk.unreadable[1],
        )
    if found is not None:
        yield from next_kernel.initial_ram_disk(found)


def _root(facts: Facts) -> Iterator[Finding]:
    found = following(facts)
    line = facts.command_line if found is None else found.command_line.whole
    yield from next_kernel.root(line, facts.running.command_line)


RULES: Final[tuple[Rule, ...]] = (
    Rule(("image-unreadable", "image-not-loadable"), ("kernel",), "jumping", _kernel),
    Rule(
        ("initrd-unusable", "initrd-unreadable", "initrd-doubtful"),
        ("kernel", "initrd", "command_line"),
        "jumping",
        _initrd,
    ),
    Rule(
        ("debugfs-missing", "formats-assumed", "scratch-unknown"),
        ("running",),
        "request",
        lambda facts: next_kernel.visible(facts.running),
    ),
    Rule(
        (
            "luo-missing",
            "luo-format",
            "kho-missing",
            "kho-format",
            "handler-missing",
            "handler-format",
            "handler-not-loaded",
            "flb-format",
            "kind-unknown",
        ),
        ("kernel", "initrd", "command_line", "running", "sessions", "declarations", "manifests"),
        "jumping",
        _formats,
    ),
    Rule(
        ("liveupdate-off", "kho-off", "no-panic"),
        ("kernel", "initrd", "command_line"),
        "jumping",
        _command_line,
    ),
    Rule(
        ("root-missing",),
        ("kernel", "initrd", "command_line", "running"),
        "jumping",
        _root,
    ),
    # Not at the kexec: no load is left by then, except in place of another program's.
    Rule(
        ("kexec-disabled", "kexec-load-limit"),
        ("loading",),
        "freezing",
        lambda facts: limits.judge(facts.loading.limits, loads=facts.loading.loads),
    ),
    Rule(("loads-not-counted",), ("loading",), "request", lambda facts: limits.counting(facts.loading.limits)),
    Rule(("scratch-too-small",), ("kernel", "initrd", "command_line", "running"), "jumping", _scratch),
    Rule(("files-held",), ("stashed",), "jumping", lambda facts: state.stashed(facts.stashed)),
    Rule(("incoming-unfinished",), ("sessions",), "jumping", lambda facts: state.incoming(facts.sessions)),
    Rule(
        ("participant-missing",),
        ("sessions", "declarations"),
        "jumping",
        lambda facts: state.unattended(unattended(facts)),
    ),
    Rule(
        ("contents-undeclared",),
        ("sessions", "manifests"),
        "jumping",
        lambda facts: state.undeclared(facts.sessions, facts.manifests),
    ),
    Rule(
        ("sealed-memory",),
        ("declarations", "manifests"),
        "jumping",
        lambda facts: state.seals(files(facts)),
    ),
    # Applied until the request only: later a part is preserved already. luod.daemon.updates.coordinator checks the rest
    # before each grant, and before guests are frozen.
    Rule(
        ("memory-preserve",),
        ("declarations", "memory"),
        "request",
        lambda facts: state.preserve(facts.declarations, facts.memory.root),
    ),
    Rule(
        ("memory-retrieve",),
        ("declarations", "memory"),
        "freezing",
        lambda facts: state.retrieve(facts.declarations, facts.memory.root),
    ),
    Rule(
        ("memory-unknown",),
        ("declarations", "memory"),
        "freezing",
        lambda facts: state.unknown(facts.declarations, facts.memory.root),
    ),
    Rule(
        ("state-directory", "registry-incomplete"),
        ("storage",),
        "jumping",
        lambda facts: storage.findings(facts.storage.problems, facts.storage.file_error, facts.storage.doubts),
    ),
    Rule(("unbind-pending",), ("devices",), "jumping", lambda facts: devices.judge(facts.devices)),
    Rule(
        (
            "systemd-unknown",
            "stores-dropped",
            "unit-sessions",
            "store-incomplete",
            "shutdown-inhibited",
            "exitrd",
            "cold-reboot",
            "minimum-uptime",
        ),
        ("way", "manager", "sessions"),
        "request",
        ways.judge,
    ),
    # Applied at the request only, and again by luod.daemon.updates.quiesce right before units are stopped.
    Rule(("participant-stopped",), ("way", "manager", "declarations"), "request", ways.participants),
    Rule(("store-full",), ("manager", "declarations"), "request", ways.room),
    Rule(("no-watchdog",), ("host",), "request", lambda facts: state.watchdog(facts.host.watchdogs)),
)


def needed(moment: Moment) -> frozenset[FactName]:
    """Returns the facts that a rule depends on at this moment of an update."""
    return frozenset(name for rule in _applied_at(moment) for name in rule.facts)


def _applied_at(moment: Moment) -> Iterator[Rule]:
    return (rule for rule in RULES if MOMENTS.index(rule.last) >= MOMENTS.index(moment))


@frozen
class _Applied:
    """The findings of one rule, and the versions of its facts."""

    versions: tuple[object, ...]
    findings: tuple[Finding, ...]


@frozen
class Judgement:
    """The findings of the rules in `facts`."""

    facts: Facts
    _applied: Mapping[Rule, _Applied]

    @property
    def findings(self) -> list[Finding]:
        return [each for applied in self._applied.values() for each in applied.findings]

    def again(self, facts: Facts, moment: Moment = "request") -> Judgement:
        """Returns the judgement of `facts` by the rules that are applied at this moment.

        A rule is applied only if one of its facts has another version than before.
        """
        return _judge(facts, moment, self._applied)


def judge(facts: Facts) -> Judgement:
    """Applies every rule to `facts`."""
    return _judge(facts, "request", {})


def _judge(facts: Facts, moment: Moment, before: Mapping[Rule, _Applied]) -> Judgement:
    now: dict[Rule, _Applied] = {}
    for rule in _applied_at(moment):
        versions = tuple(facts.version(name) for name in rule.facts)
        applied = before.get(rule)
        if applied is None or applied.versions != versions:
            applied = _Applied(versions, tuple(rule.apply(facts)))
        now[rule] = applied
    return Judgement(facts, now)
