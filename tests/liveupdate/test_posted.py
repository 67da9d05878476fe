"""The calls that are posted and in no released kernel, in the library: never tried where they are not declared."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from luod.testing import Machine
from luod.testing.interpreter import Interpreter
from luod.testing.plugin import BootMachine
from luod.uapi import liveupdate_next as posted
from tests.library import Vmm, jump, load, start_vmm

FILE = "/dev/shm/luod test of tmpfs"


@pytest.fixture
def machine(boot_machine: BootMachine) -> Machine:
    return boot_machine(profile="next")


@pytest.fixture
def vmm(machine: Machine, machine_python: Interpreter) -> Vmm:
    return start_vmm(machine, machine_python)


@pytest.fixture
def tmpfs_file(machine: Machine) -> Iterator[str]:
    """Returns the path of an empty file of the host's tmpfs."""
    machine.write(FILE, b"")
    yield FILE
    machine.run(["rm", "-f", FILE])


def create(vmm: Vmm, name: str, slot: str) -> None:
    vmm.call("create", name=name, slot=slot)
    vmm.memfd(f"m of {slot}")
    vmm.call("preserve", session=slot, file=f"m of {slot}", token=1, name="ram")


def test_a_frozen_session_takes_no_files_and_is_carried(
    machine: Machine, vmm: Vmm, machine_python: Interpreter
) -> None:
    create(vmm, "frozen", "s")
    create(vmm, "other", "t")
    vmm.call("freeze", session="s")
    assert vmm.refused("freeze", session="s").kind == "SessionFrozen"
    vmm.memfd("late")
    error = vmm.refused("preserve", session="s", file="late", token=2)
    assert (error.kind, error.errno) == ("SessionFrozen", "EBUSY")
    assert vmm.call("tokens", session="s") == [1]
    load(machine, vmm)
    jump(machine, vmm)
    after = start_vmm(machine, machine_python)
    for name in ("frozen", "other"):
        after.call("retrieve_session", name=name, slot=name)
        after.call("retrieve", session=name, file="ram", slot=f"ram of {name}")


def test_the_end_of_a_frozen_session_gives_its_files_back(vmm: Vmm) -> None:
    create(vmm, "vm", "s")
    vmm.call("freeze", session="s")
    vmm.call("close", session="s")
    vmm.call("create", name="vm", slot="again")
    vmm.call("preserve", session="again", file="m of s", token=1)


def test_what_a_machine_declares_needs_no_environment(machine: Machine, machine_python: Interpreter) -> None:
    """As under sudo, and in a unit of systemd."""
    code = (
        "import sys; from luod.liveupdate import LiveUpdate\n"
        "with LiveUpdate() as device, device.create_session('vm') as session: session.freeze()"
    )
    environment = {**machine_python.environment, "LUOEMU_PROFILE": None}
    machine.run([machine_python.executable, "-c", code], env=environment)


def test_what_the_environment_says_declares_nothing(boot_machine: BootMachine, machine_python: Interpreter) -> None:
    code = "from luod.liveupdate import posted; raise SystemExit(posted.available())"
    environment = {**machine_python.environment, "LUOEMU_PROFILE": "next"}
    boot_machine().run([machine_python.executable, "-c", code], env=environment)


def test_freeze_is_never_tried_where_the_machine_does_not_declare_it(
    boot_machine: BootMachine, machine_python: Interpreter
) -> None:
    vmm = start_vmm(boot_machine(), machine_python)
    create(vmm, "vm", "s")
    # If the ioctl were made, it would fail with EDOM.
    vmm.ask("deny", call="ioctl", code="EDOM", argument=1, value=posted.LIVEUPDATE_SESSION_FREEZE)
    error = vmm.refused("freeze", session="s")
    assert (error.kind, error.errno) == ("PostedCallUnavailable", None)


def test_a_file_of_a_tmpfs_is_retrieved_into_another(
    machine: Machine, vmm: Vmm, tmpfs_file: str, machine_python: Interpreter
) -> None:
    machine.write(tmpfs_file, b"contents")
    vmm.call("create", name="vm", slot="s")
    vmm.ask("open", path=tmpfs_file, flags=2, slot="file")
    vmm.call("preserve", session="s", file="file", token=1, name="file")
    assert vmm.says("ftruncate", fd="file", size=1) == "EPERM"
    load(machine, vmm)
    jump(machine, vmm)
    machine.write(tmpfs_file, b"")
    after = start_vmm(machine, machine_python)
    after.call("retrieve_session", name="vm", slot="s")
    after.ask("open", path=tmpfs_file, flags=0, slot="read-only")
    after.ask("open", path=tmpfs_file, flags=2, slot="target")
    for target in (None, "read-only"):
        error = after.refused("retrieve_into", session="s", file="file", slot="x", target=target)
        assert error.kind == "TargetRefused", target
    after.call("retrieve_into", session="s", file="file", slot="back", target="target")
    assert machine.read(tmpfs_file) == b"contents"
    assert after.ask("pread", fd="back", length=20, offset=0) == "contents"
    after.call("finish", session="s")
