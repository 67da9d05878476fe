"""What preflight finds about the way in which the next kernel is started."""

from __future__ import annotations

from pathlib import Path

import pytest

from luod import image
from luod.daemon.preflight import ways
from luod.daemon.preflight.devices import Devices
from luod.daemon.preflight.facts import Declaration, Facts, Host, KernelFile, Loading, Memory
from luod.daemon.preflight.running import Running
from luod.daemon.store.schema import OutgoingRow
from luod.daemon.systemd.manager import Lock, Manager, Service
from luod.frozen import replace
from luod.image.contents import Contents
from luod.ipc.types.admin import Finding
from luod.ipc.types.phases import Way

OWN = Service("luod.service", active=True, stays=True, preserves=True, stored=4)
HOST = Manager(booted=True, unit="luod.service", services=(OWN,))


def facts(way: Way, manager: Manager, *, sessions: int = 2, units: tuple[str, ...] = ()) -> Facts:
    return Facts(
        kernel=KernelFile((1,), image.Kernel(None, Contents("7.3.4", (), "", None))),
        initrd=None,
        command_line="",
        running=Running(),
        loading=Loading(),
        sessions=tuple((OutgoingRow(f"vm-{number}", 0), "held") for number in range(sessions)),
        declarations=tuple(Declaration(f"vm-{number}", 1, (), unit) for number, unit in enumerate(units)),
        stashed=(),
        memory=Memory(Path("/nonexistent")),
        devices=Devices(),
        host=Host(("active",)),
        way=way,
        manager=manager,
    )


def judged(way: Way, manager: Manager, *, sessions: int = 2) -> dict[str, Finding]:
    return {each.name: each for each in ways.judge(facts(way, manager, sessions=sessions))}


def test_without_systemd_the_direct_way_has_no_finding() -> None:
    assert judged("direct", Manager()) == {}


def test_the_direct_way_drops_the_stores_of_other_units() -> None:
    others = (Service("db.service", preserves=True, stored=2), Service("empty.service", preserves=True))
    forgetful = Service("cache.service", preserves=False, stored=9)

    found = judged("direct", replace(HOST, services=(OWN, forgetful, *others)))

    assert list(found) == ["stores-dropped"]
    assert "store: db.service" in found["stores-dropped"].what


def test_the_direct_way_leaves_the_sessions_of_units_with_luo_session_behind() -> None:
    """A unit whose store has more loses that, too. One that does not run has no session."""
    unit = Service("db.service", active=True, preserves=True, stored=1, sessions=("state",))
    more = replace(unit, name="more.service", stored=2)
    ended = replace(unit, name="ended.service", active=False)
    host = replace(HOST, services=(OWN, unit, more, ended))

    found = judged("direct", host)

    assert "(LUOSession=): db.service, more.service" in found["unit-sessions"].what
    assert not found["unit-sessions"].refuses
    assert "store: more.service" in found["stores-dropped"].what
    assert "unit-sessions" not in judged("systemd", host)


def test_the_way_of_systemd_names_the_number_of_sessions_that_a_failed_kexec_loses() -> None:
    found = judged("systemd", HOST)

    assert list(found) == ["cold-reboot"]
    assert found["cold-reboot"].severity == "warning"
    assert "2 sessions would be lost" in found["cold-reboot"].what
    assert judged("systemd", HOST, sessions=0) == {}


@pytest.mark.parametrize("own", [(), (replace(OWN, preserves=False),), (replace(OWN, stored=1),)])
def test_sessions_that_are_not_in_the_store_are_refused(own: tuple[Service, ...]) -> None:
    found = judged("systemd", replace(HOST, services=own))

    assert found["store-incomplete"].refuses


def test_a_store_that_lacks_a_file_of_luod_is_refused_although_it_has_more_files_than_there_are_sessions() -> None:
    found = judged("systemd", replace(HOST, held=5))

    assert "has 4 of the 5 file descriptors" in found["store-incomplete"].what


@pytest.mark.parametrize("way", ["direct", "systemd"])
@pytest.mark.parametrize(("maximum", "refused"), [(9, True), (10, False)])
def test_a_store_without_room_for_the_files_of_an_update_is_refused(way: Way, maximum: int, refused: bool) -> None:
    """2, and 2 for each participant: otherwise it would be cancelled while guests are paused."""
    host = replace(HOST, services=(replace(OWN, room=maximum),), held=4)

    found = list(ways.room(facts(way, host, units=("a.service", "b.service"))))

    assert [each.name for each in found] == ["store-full"] * refused
    assert not refused or "room for 5 more files" in found[0].what


def test_without_a_store_there_is_no_maximum() -> None:
    assert list(ways.room(facts("direct", Manager()))) == []
    assert list(ways.room(facts("direct", replace(HOST, services=(replace(OWN, stored=0),), held=4)))) == []


def test_locks_of_others_and_another_end_of_the_kernel_are_refused() -> None:
    found = judged("systemd", replace(HOST, locks=(Lock("apt", "an upgrade"),), exitrd=True))

    assert "apt (an upgrade)" in found["shutdown-inhibited"].what
    assert found["shutdown-inhibited"].refuses
    assert found["exitrd"].refuses


def test_a_wait_in_the_blackout_is_named_in_seconds() -> None:
    found = judged("systemd", replace(HOST, minimum_uptime=9.6))

    assert "up for 10 s more" in found["minimum-uptime"].what
    assert not found["minimum-uptime"].refuses


def test_a_systemd_that_does_not_answer_is_a_warning() -> None:
    for way in ("direct", "systemd"):
        assert list(judged(way, replace(HOST, unknown="Failed to connect to bus"))) == ["systemd-unknown"]


def test_participants_whose_units_would_be_stopped_are_refused() -> None:
    services = (OWN, Service("kept@a.service", active=True, stays=True), Service("vmm@b.service", active=True))
    units = ("kept@a.service", "vmm@b.service", "machine-c.scope")

    (found,) = ways.participants(facts("systemd", replace(HOST, services=services), units=units))

    assert found.refuses
    assert "participants: vm-1 (vmm@b.service)" in found.what
    assert list(ways.participants(facts("direct", replace(HOST, services=services), units=units))) == []
