"""Changes after the check are seen: no freeze and no kexec follows a change that the check would refuse.

Which rule depends on which fact is test_facts.py; here changes of every kind are made on a machine, in each
phase in which they can be.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from luod.emulator.machine.stub import FORMATS, bzimage
from tests.daemon.host import Luod
from tests.daemon.participant import Operator, Participant, file
from tests.image.archives import cpio

KERNEL = "/run/next-kernel"
COMMAND_LINE = "liveupdate=on kho=on panic=-1"
WITHOUT_VFIO = bzimage(formats=tuple(name for name in FORMATS if not name.startswith("vfio")))
MEMORY, DEVICE = file(1), file(2, size=0, allocated=0, kind="vfio")

Change = Callable[[Luod, Participant], object]


def declares_a_device(_luod: Luod, one: Participant) -> None:
    one.declare(MEMORY, DEVICE)


def declares_a_device_that_it_will_preserve_while_frozen(_luod: Luod, one: Participant) -> None:
    one.declare(MEMORY, {**DEVICE, "when": "freezing"})


def declares_memory_that_comes_back_sealed(_luod: Luod, one: Participant) -> None:
    one.declare({**MEMORY, "seals": 0x20})


def declares_no_session(_luod: Luod, one: Participant) -> None:
    one.declare(sessions=[])


def makes_a_session_and_declares_nothing(luod: Luod, _one: Participant) -> None:
    luod.vmm().call("create", name="plain", slot="s")


def writes_to_the_image(luod: Luod, _one: Participant) -> None:
    luod.machine.write(KERNEL, bzimage(release="7.3.9-other"))


def writes_to_the_initrd(luod: Luod, _one: Participant) -> None:
    luod.machine.write("/run/next-initrd", cpio({"etc/another": b""}))


IN_PREPARING: list[tuple[Change, str]] = [
    (declares_a_device, "handler-missing"),
    (declares_a_device_that_it_will_preserve_while_frozen, "handler-missing"),
    (declares_memory_that_comes_back_sealed, "sealed-memory"),
    (declares_no_session, "contents-undeclared"),
    (makes_a_session_and_declares_nothing, "contents-undeclared"),
    (writes_to_the_image, "modified after the check"),
    (writes_to_the_initrd, "modified after the check"),
]
IN_FREEZING: list[tuple[Change, str]] = [
    (writes_to_the_image, "modified after the check"),
    (writes_to_the_initrd, "modified after the check"),
]


def updating(luod: Luod) -> Operator:
    """Requests an update into a kernel without a handler for devices."""
    luod.machine.write(KERNEL, WITHOUT_VFIO)
    luod.machine.write("/run/next-initrd", cpio({}))
    luod.luoctl("load", "--kernel", KERNEL, "--initrd", "/run/next-initrd", "--append-cmdline", COMMAND_LINE)
    operator = Operator(luod)
    operator.update()
    return operator


@pytest.mark.parametrize(("change", "reason"), IN_PREPARING, ids=lambda each: getattr(each, "__name__", ""))
def test_what_changes_in_preparing_freezes_no_guest(luod: Luod, change: Change, reason: str) -> None:
    one, other = Participant(luod, "one"), Participant(luod, "other")
    operator = updating(luod)
    one.expect("preparing")
    other.expect("preparing")
    other.vote("preparing")
    change(luod, one)
    one.vote("preparing")
    one.expect("cancelled")
    assert reason in other.expect("cancelled")["reason"]
    assert reason in operator.until("cancelled")["reason"]


@pytest.mark.parametrize(("change", "reason"), IN_FREEZING, ids=lambda each: getattr(each, "__name__", ""))
def test_what_changes_in_freezing_does_not_jump(luod: Luod, change: Change, reason: str) -> None:
    one, other = Participant(luod, "one"), Participant(luod, "other")
    operator = updating(luod)
    for each in (one, other):
        each.expect("preparing")
        each.vote("preparing")
    one.expect("freezing")
    other.expect("freezing")
    other.vote("freezing")
    change(luod, one)
    one.vote("freezing")
    assert reason in operator.until("cancelled")["reason"]
    assert luod.machine.boot == 1


def test_while_guests_are_paused_no_check_reads_files(luod: Luod) -> None:
    one = Participant(luod, "one")
    operator = updating(luod)
    one.expect("preparing")
    assert luod.luoctl("check", check=False).returncode == 0
    one.vote("preparing")
    one.expect("freezing")
    refused = luod.luoctl("check", check=False)
    assert (refused.returncode != 0, b"an update is running: freezing" in refused.stderr) == (True, True)
    operator.abort()


def is_released(luod: Luod, one: Participant) -> None:
    luod.luoctl("release", "--force", one.name)


def is_released_and_created_again(_luod: Luod, one: Participant) -> None:
    one.vmm.call("release", session=one.name)
    one.vmm.call("create", name=one.name, slot="second")


@pytest.mark.parametrize("change", [is_released, is_released_and_created_again], ids=lambda each: each.__name__)
def test_a_session_that_is_released_under_its_participant_freezes_no_guest(luod: Luod, change: Change) -> None:
    one, other = Participant(luod, "one"), Participant(luod, "other")
    operator = updating(luod)
    one.expect("preparing")
    one.vote("preparing")
    other.expect("preparing")
    change(luod, one)
    other.vote("preparing")
    assert "released" in other.expect("cancelled")["reason"]
    one.expect("cancelled")
    operator.until("cancelled")


def test_a_session_that_is_created_again_before_its_participant_votes_is_carried(luod: Luod) -> None:
    one = Participant(luod, "one")
    operator = updating(luod)
    one.expect("preparing")
    is_released_and_created_again(luod, one)
    one.vote("preparing")
    one.expect("freezing")
    operator.abort()


def test_a_device_whose_participant_died_is_refused_also_with_force(luod: Luod) -> None:
    one, other = Participant(luod, "one"), Participant(luod, "other")
    luod.machine.write(KERNEL, WITHOUT_VFIO)
    luod.load(KERNEL)
    operator = Operator(luod)
    operator.update(skip_unready=True)
    one.expect("preparing")
    other.expect("preparing")
    one.declare(MEMORY, DEVICE)
    one.vmm.program.kill()
    other.vote("preparing")
    assert "handler-missing" in other.expect("cancelled")["reason"]
    assert "handler-missing" in operator.until("cancelled")["reason"]


def test_a_device_that_was_to_be_preserved_and_is_not_needs_no_handler(luod: Luod) -> None:
    one = Participant(luod, "one", declare=False)
    one.declare(MEMORY, {**DEVICE, "when": "freezing"})
    one.declare(MEMORY)
    operator = updating(luod)
    one.expect("preparing")
    one.vote("preparing")
    one.expect("freezing")
    operator.abort()


def test_the_next_update_is_refused_at_once_for_what_was_declared_meanwhile(luod: Luod) -> None:
    one = Participant(luod, "one")
    operator = updating(luod)
    one.expect("preparing")
    one.declare(MEMORY, DEVICE)
    one.vote("preparing")
    operator.until("cancelled")
    result = luod.luoctl("update", check=False)
    assert (result.returncode, "handler-missing" in result.stderr.decode()) == (4, True)
