"""A finding is certain only as long as the facts it depends on have not changed. Pure: facts made up here."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as some

from luod import image
from luod.daemon.preflight.devices import Device, Devices
from luod.daemon.preflight.facts import (
    Declaration,
    Facts,
    Host,
    InitrdFile,
    KernelFile,
    Loading,
    Memory,
    Storage,
)
from luod.daemon.preflight.findings import NAMES, REFUSALS
from luod.daemon.preflight.manifests import Listed
from luod.daemon.preflight.rules import MOMENTS, RULES, Judgement, Rule, judge
from luod.daemon.preflight.running import Running
from luod.daemon.store.schema import Doubt, IncomingRow, OutgoingRow
from luod.daemon.store.states import OutgoingState
from luod.daemon.systemd.manager import Lock, Manager, Service
from luod.frozen import members, replace
from luod.image.bzimage import Image
from luod.image.contents import Contents
from luod.image.initrd import Modules
from luod.ipc.types.admin import Problem
from luod.ipc.types.updates import DeclaredFile, DeclaredSession
from luod.kexec import LoadLimits
from luod.manifest import Entry

if TYPE_CHECKING:
    from luod.daemon.preflight.facts import FactName
    from luod.daemon.preflight.rules import Moment

MIB = 1 << 20
HEADER = Image((2, 15), True, "", 0, 0, "none", 16 * MIB)
ALL = ("kho-v4", "luo-v5", "memfd-v2", "vfio-pci-v1")
DESIGN = Path(__file__).parents[3] / "docs" / "design.md"


def kernel(number: int, *formats: str) -> KernelFile:
    return KernelFile((number,), image.Kernel(HEADER, Contents("7.3.4", formats)))


def declaration(name: str, *kinds: str, seals: int = 0) -> Declaration:
    files = [DeclaredFile(token, None, kind, 4096, 4096, seals, "preserved") for token, kind in enumerate(kinds)]
    return Declaration(name, 1, (DeclaredSession(name, files),))


def running(*formats: str, scratch: int = 200, line: str = "") -> Running:
    by_family = {name.rpartition("-v")[0]: frozenset({name}) for name in formats}
    return Running(by_family, assumed=False, scratch=(scratch * MIB,), command_line=line)


VALUES: dict[FactName, list[Any]] = {
    "kernel": [
        kernel(1, *ALL),
        kernel(2, *ALL[:3]),
        kernel(3, "kho-v4", "luo-v9"),
        KernelFile((4,), None, ("it is cut off", "load another one")),
    ],
    "initrd": [
        None,
        InitrdFile((1,), 4096, Modules()),
        InitrdFile((2,), 4096, Modules({"vfio_pci": ("vfio-pci-v1",)}, {"vfio_pci": "conf/modules"})),
        InitrdFile((3,), 4096, Modules({"vfio_pci": ("vfio-pci-v2",)}, {"vfio_pci": "conf/modules"})),
        InitrdFile((4,), 4096, unusable=("it is cut off", "give another one")),
        InitrdFile((5,), 300 * MIB, Modules()),
        InitrdFile((6,), 4096, unreadable=("it is packed with lzo", "pack it with zstd")),
        InitrdFile((7,), 4096, Modules(remarks=("odd",)), ("panic=1 liveupdate=on", "")),
    ],
    "command_line": ["liveupdate=on kho=on panic=1", "kho=on", ""],
    "running": [running(*ALL), running(*ALL, scratch=10), running(*ALL, line="root=/dev/vda"), Running()],
    "loading": [
        Loading(),
        Loading(LoadLimits(loads_left=1), 1),
        Loading(LoadLimits(loads_left=1), 2),
        Loading(LoadLimits(counted=False)),
    ],
    "sessions": [
        (),
        ((OutgoingRow("vm", 0, state=OutgoingState.DECLARED, kinds=("memfd",)), "held"),),
        ((OutgoingRow("vm", 0, state=OutgoingState.DECLARED, kinds=("vfio",)), "held"),),
        ((OutgoingRow("vm", 0), "held"),),
        ((IncomingRow("vm", 0), "waiting"),),
    ],
    "declarations": [
        (),
        (declaration("vm", "memfd"),),
        (declaration("vm", "memfd", "vfio"),),
        (declaration("vm", "gpu", "memfd", seals=0x20),),
    ],
    "stashed": [(), ("a",), ("a", "b")],
    "memory": [Memory(Path("/nonexistent"))],
    "devices": [
        Devices(),
        Devices((Device("0000:01:00.0", True),)),
        Devices((Device("0000:01:00.0", False),), ("sh (pid 7)",)),
        Devices((Device(None, None),), ("sh (pid 7)",)),
    ],
    "host": [Host(), Host(("active",)), Host(("inactive",))],
    "manifests": [
        (),
        (Listed("vm", (Entry(1, None, "memfd", 4096, 4096, 0x20),), complete=True),),
        (Listed("vm", (Entry(1, None, "vfio", 0, 0, 0, "0000:01:00.0"),), complete=False),),
    ],
    "storage": [
        Storage(),
        Storage((Problem("/state", "it is read-only", "remount it"),)),
        Storage(file_error="No space left on device"),
        Storage(doubts=(Doubt("it is damaged", refuses=True), Doubt("it is of another boot"))),
    ],
    "way": ["direct", "systemd"],
    "manager": [
        Manager(),
        Manager(True, "luod.service", (Service("luod.service", True, True, True, 2), Service("db.service", True))),
        Manager(True, "luod.service", (Service("db.service", True, True, True, 2),), (Lock("apt", "why"),), 9.0, True),
        Manager(True, unknown="Connection refused"),
    ],
}
assert set(VALUES) == set(members(Facts))

BEST = Facts(**{name: values[0] for name, values in VALUES.items()})
some_facts = some.builds(
    lambda values: Facts(**values), some.fixed_dictionaries({n: some.sampled_from(v) for n, v in VALUES.items()})
)
some_change = some.sampled_from([(name, value) for name, values in VALUES.items() for value in values])


def at(moment: Moment, judgement: Judgement) -> list[tuple[str, str]]:
    """Returns the findings of the rules that apply at this moment."""
    applied = [name for rule in RULES if MOMENTS.index(rule.last) >= MOMENTS.index(moment) for name in rule.findings]
    return [(each.name, each.what) for each in judgement.findings if each.name in applied]


@given(some_facts, some.lists(some_change, max_size=6), some.sampled_from(MOMENTS))
def test_whatever_fact_changes_the_findings_are_those_of_the_facts_as_they_are_now(
    facts: Facts, changes: list[tuple[FactName, Any]], moment: Moment
) -> None:
    judgement = judge(facts)
    for name, value in changes:
        facts = replace(facts, **{name: value})
        judgement = judgement.again(facts)
    assert at(moment, judgement.again(facts, moment)) == at(moment, judge(facts))


class Recorded(Facts):
    """Facts that remember which of them were read."""

    def __getattribute__(self, name: str) -> Any:
        if name in VALUES:
            object.__getattribute__(self, "__dict__").setdefault("read", set()).add(name)
        return object.__getattribute__(self, name)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.findings[0])
@given(facts=some_facts)
def test_a_rule_reads_no_fact_but_those_it_names(rule: Rule, facts: Facts) -> None:
    recorded = Recorded(**{name: getattr(facts, name) for name in members(Facts)})
    found = [each.name for each in rule.apply(recorded)]
    assert recorded.__dict__.get("read", set()) <= set(rule.facts)
    assert set(found) <= set(rule.findings)


def test_every_finding_has_one_rule() -> None:
    assert sorted(name for rule in RULES for name in rule.findings) == sorted(NAMES)


def test_a_rule_whose_facts_did_not_change_is_not_applied_again() -> None:
    judgement = judge(BEST)
    again = judgement.again(replace(BEST, stashed=("a",)))
    assert {each.name for each in again.findings} - {each.name for each in judgement.findings} == {"files-held"}
    # The very same objects: they were not made a second time.
    kept = {id(each) for each in again.findings} & {id(each) for each in judgement.findings}
    assert len(kept) == len(judgement.findings)


def test_memory_has_another_version_each_time_it_is_observed() -> None:
    assert Memory(Path("/")) != Memory(Path("/"))


def test_a_device_counts_when_its_participant_is_gone() -> None:
    """With --skip-unready an update continues without it, and its session is still preserved."""
    gone = replace(BEST, kernel=VALUES["kernel"][1], sessions=VALUES["sessions"][2])
    assert "handler-missing" in {each.name for each in judge(gone).findings}


def test_a_device_in_a_session_that_no_participant_declared_counts_by_its_manifest() -> None:
    undeclared = replace(BEST, kernel=VALUES["kernel"][1], sessions=VALUES["sessions"][3])
    assert "handler-missing" not in {each.name for each in judge(undeclared).findings}
    known = replace(undeclared, manifests=VALUES["manifests"][2])
    assert "handler-missing" in {each.name for each in judge(known).findings}


@pytest.mark.parametrize(("manifest", "unknown"), [(0, True), (1, False), (2, True)])
def test_an_undeclared_session_whose_files_are_not_all_known_is_named(manifest: int, unknown: bool) -> None:
    facts = replace(BEST, sessions=VALUES["sessions"][3], manifests=VALUES["manifests"][manifest])
    (found,) = (each for each in judge(facts).findings if each.name == "contents-undeclared")
    assert ("does not know all files of vm" in found.why) is unknown


def test_docs_design_shows_the_facts_and_the_last_moment_of_every_finding() -> None:
    shown = {}
    for line in DESIGN.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 4 and cells[2] in MOMENTS:
            for name in re.findall(r"`([a-z-]+)`", cells[0]):
                shown[name] = (tuple(re.findall(r"`([a-z_]+)`", cells[1])), cells[2])
    assert shown == {name: (rule.facts, rule.last) for rule in RULES for name in rule.findings}
    assert set(shown) >= REFUSALS
