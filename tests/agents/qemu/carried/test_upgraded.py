"""`luoctl qemu upgrade` replaces the QEMU of a guest that an agent runs, and updates of the kernel go on with it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from luod.testing import Host, Machine, eventually
from luod.testing.machine import Program
from tests.agents.qemu import qemus
from tests.agents.qemu.guests import CountingGuest


def agent_of(host: Host, *arguments: str) -> Program:
    """Starts an agent."""
    python = host.python()
    environment = {**python.environment, "PATH": os.environ["PATH"]}
    return host.machine.spawn(python.module("luod.ctl.main", "qemu", *arguments), env=environment)


def counts_on(guest: CountingGuest, program: Program) -> None:
    number = len(guest.numbers())
    try:
        eventually(lambda: len(guest.numbers()) > number + 20, describe=f"it counts past {number}", within=60)
    except AssertionError as error:
        raise AssertionError(f"{error}; its agent printed: {program.stderr}") from None


def takes_part(program: Program) -> None:
    eventually(lambda: "takes part" in program.stderr, describe="the guest takes part in updates", within=60)


def running(machine: Machine, folder: Path) -> tuple[Host, CountingGuest, Program]:
    """Starts luod and a guest, which takes part in updates. Returns its agent, too."""
    host = Host(machine, state_directory=folder / "luod")
    guest = CountingGuest("vm", folder)
    guest.make_disk()
    host.start()
    agent = agent_of(host, "run", "--name", "vm", "--", "qemu-system-x86_64", *guest.arguments())
    takes_part(agent)
    return host, guest, agent


@pytest.mark.parametrize("which", qemus.WHICH)
def test_a_guest_goes_on_with_another_qemu_and_then_in_the_next_kernel(
    machine: Machine, tmp_path: Path, which: str
) -> None:
    host, guest, agent = running(machine, tmp_path)
    counts_on(guest, agent)

    said = host.luoctl_json("qemu", "upgrade", "vm", "--qemu", qemus.path(which))

    assert said["version"] == qemus.capabilities(which).version
    assert said["machine"] == qemus.capabilities("installed").versioned("pc")
    assert described(host) == qemus.path(which)
    counts_on(guest, agent)
    host.load()
    host.update()
    guest.assert_nothing_is_lost()
    host.start()
    agent = agent_of(host, "restore", "vm")
    counts_on(guest, agent)
    assert f"QEMU {said['version']}" in agent.stderr
    guest.assert_nothing_is_lost()


def test_what_cannot_take_the_guest_is_refused_and_the_guest_goes_on(machine: Machine, tmp_path: Path) -> None:
    host, guest, agent = running(machine, tmp_path)
    no_qemu, failing = tmp_path / "no-qemu", tmp_path / "failing"
    no_qemu.write_text("#!/bin/sh\nexit 1\n")
    failing.write_text('#!/bin/sh\ncase "$*" in *incoming*) exit 1;; esac\nexec qemu-system-x86_64 "$@"\n')
    for script in (no_qemu, failing):
        script.chmod(0o755)

    for status, name, program, part in (
        (4, "other", Path("qemu-system-x86_64"), "no agent"),
        (4, "vm", Path("/nonexistent"), "no program"),
        (1, "vm", no_qemu, "does not answer"),
        (1, "vm", failing, "goes on with QEMU"),
    ):
        said = host.luoctl("qemu", "upgrade", name, "--qemu", str(program), check=False)
        assert (said.returncode, part in str(said.stderr)) == (status, True), said.stderr
    assert described(host) == qemus.path("installed")
    counts_on(guest, agent)
    guest.assert_nothing_is_lost()


def test_the_session_names_the_new_qemu_before_it_has_the_guest(machine: Machine, tmp_path: Path) -> None:
    """So that no failure between the two leaves the state of one QEMU with the description of another."""
    host, guest, agent = running(machine, tmp_path)
    slow, begun, going = tmp_path / "slow", tmp_path / "begun", tmp_path / "going"
    wait = f"touch {begun}; until test -e {going}; do sleep 0.02; done"
    slow.write_text(f'#!/bin/sh\ncase "$*" in *incoming*) {wait};; esac\nexec qemu-system-x86_64 "$@"\n')
    slow.chmod(0o755)
    python = host.python()
    upgrade = host.machine.spawn(
        python.module("luod.ctl.main", "qemu", "upgrade", "vm", "--qemu", str(slow)), env=python.environment
    )
    eventually(begun.exists, describe="the new QEMU is started")

    assert described(host) == str(slow)

    going.touch()
    assert upgrade.wait(timeout=60) == 0, upgrade.stderr
    counts_on(guest, agent)
    guest.assert_nothing_is_lost()


def described(host: Host) -> str:
    """Returns the QEMU that the guest's session names."""
    path: str = host.luoctl_json("show", "vm")["about"]["program"]["path"]
    return path
