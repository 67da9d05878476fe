"""In the next kernel, sessions that systemd's PID 1 has carried and retrieved are luod's incoming sessions."""

from __future__ import annotations

import os

from tests.daemon.host import Luod, preserve_two, states
from tests.library import ROOT


def start_handed_over(luod: Luod, *names: str) -> None:
    """Starts luod in the next kernel, with these sessions of the last one in its fd store."""
    python = luod.python()
    tests = python.readable(ROOT / "tests").parent
    environment = {**python.environment, "PYTHONPATH": f"{python.environment['PYTHONPATH']}{os.pathsep}{tests}"}
    options = ("0123abcd", ",".join(names), "--state-directory", luod.state_directory)
    program = python.module("tests.programs.handed_over", *options)
    luod.supervisor = luod.machine.spawn(python.module("luod.testing.started", *program), env=environment)
    assert luod.supervisor.ask({})["ready"]


def test_every_session_can_be_retrieved_by_its_owner(luod: Luod) -> None:
    preserve_two(luod)
    luod.load()
    luod.force_update()

    start_handed_over(luod, "luod", "vm", "other")

    vmm = luod.vmm()
    assert states(vmm) == {"incoming vm": "retrieved", "incoming other": "retrieved"}
    for name in ("vm", "other"):
        vmm.call("retrieve_session", name=name, slot=name)
        vmm.call("retrieve", session=name, file=1, slot=f"ram {name}")
    assert luod.status()["boot"] == 2


def test_a_session_that_pid_1_does_not_deliver_is_still_in_the_kernel_and_retrieved_from_there(luod: Luod) -> None:
    preserve_two(luod)
    luod.load()
    luod.force_update()

    start_handed_over(luod, "luod", "vm")

    vmm = luod.vmm()
    assert states(vmm) == {"incoming vm": "retrieved", "incoming other": "waiting"}
    vmm.call("retrieve_session", name="other", slot="other")
    vmm.call("retrieve", session="other", file=1, slot="ram")


def test_a_luod_that_dies_then_finds_the_sessions_in_the_next_serve(luod: Luod) -> None:
    preserve_two(luod)
    luod.load()
    luod.force_update()
    start_handed_over(luod, "luod", "vm", "other")

    luod.kill_serve()

    vmm = luod.vmm()
    assert states(vmm) == {"incoming vm": "retrieved", "incoming other": "retrieved"}
    vmm.call("retrieve_session", name="vm", slot="vm")
    vmm.call("retrieve", session="vm", file=1, slot="ram")
