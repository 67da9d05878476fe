"""Serve may be killed at any moment: nothing is lost or leaked."""

from __future__ import annotations

import signal

from luod.testing import eventually
from tests.daemon.host import Luod, states


def test_killed_between_any_two_requests_it_loses_nothing(luod: Luod) -> None:
    vmm = luod.vmm()
    vmm.call("create", name="vm", slot="s")
    luod.kill_serve()
    digest = vmm.memfd("ram", seed=1)
    vmm.call("preserve", session="s", file="ram", token=1)
    assert states(vmm) == {"outgoing vm": "held"}
    vmm.call("create", name="other", slot="o")
    luod.kill_serve()
    vmm.call("release", session="o")
    luod.kill_serve()
    assert states(vmm) == {"outgoing vm": "held"}
    luod.load()
    luod.kill_serve()
    assert luod.status()["kernel_loaded"]
    vmm.program.kill()
    luod.force_update()

    luod.start()
    luod.kill_serve()
    vmm = luod.vmm()
    assert states(vmm) == {"incoming vm": "waiting"}
    vmm.call("retrieve_session", name="vm", slot="s")
    luod.kill_serve()
    assert states(vmm) == {"incoming vm": "retrieved"}
    vmm.program.kill()
    luod.kill_serve()
    vmm = luod.vmm()
    vmm.call("retrieve_session", name="vm", slot="s")
    vmm.call("retrieve", session="s", file=1, slot="ram")
    assert vmm.ask("digest", fd="ram") == digest
    luod.kill_serve()
    vmm.call("finish", session="s")
    luod.kill_serve()
    assert states(vmm) == {}
    assert luod.status()["boot"] == 2


def test_killed_while_it_starts_it_begins_again(luod: Luod) -> None:
    """Its start is where the registry changes kernels. Killed at a different point each time, ten times."""
    vmm = luod.vmm()
    vmm.call("create", name="vm", slot="s")
    luod.load()
    luod.force_update()
    python = luod.python()
    command = python.module("luod.daemon.main", "--state-directory", luod.state_directory)
    supervisor = luod.machine.spawn(command, env=python.environment)
    killed: set[int] = set()

    def enough() -> bool:
        for child in luod.machine.read(f"/proc/{supervisor.pid}/task/{supervisor.pid}/children").split():
            luod.machine.signal(int(child), signal.SIGKILL)
            killed.add(int(child))
        return len(killed) >= 10

    eventually(enough, describe="ten processes of luod are killed")
    vmm = luod.vmm()
    assert states(vmm) == {"incoming vm": "waiting"}
    assert luod.status()["boot"] == 2


def test_killed_in_the_middle_of_requests_it_keeps_what_it_answered(luod: Luod) -> None:
    vmm, killer = luod.vmm(), luod.vmm()
    answered: set[str] = set()
    unanswered: set[str] = set()
    for number in range(40):
        name = f"s{number}"
        question = vmm.program.send({"do": "library", "in": [], "call": "create", "name": name, "slot": name})
        if number % 3 == 0:
            luod.kill_serve()
        (answered if "value" in vmm.program.answer(question)["ok"] else unanswered).add(name)
    assert answered
    assert set(states(killer).values()) <= {"held"}
    listed = {key.removeprefix("outgoing ") for key in states(killer)}
    assert answered <= listed
    # What was not answered is either not there at all, or there to be replaced; never a name that is lost.
    for name in unanswered - listed:
        vmm.call("create", name=name, slot=name)
    for name in unanswered & listed:
        killer.call("release_named", name=name)
        vmm.call("create", name=name, slot=name)
    assert set(states(killer).values()) == {"held"}
    assert len(states(killer)) == 40
