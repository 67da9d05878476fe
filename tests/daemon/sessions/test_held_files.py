"""Files that luod holds while a VMM is started again without a kexec: whose they are, and when they are gone."""

from __future__ import annotations

import shlex
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from luod.testing import Machine, eventually
from luod.testing.tools import for_root
from tests.daemon.host import Luod, until_loaded
from tests.library import Vmm

Start = Callable[..., Vmm]


@pytest.fixture(params=["blocking", "asyncio"])
def start(request: pytest.FixtureRequest, luod: Luod) -> Start:
    return partial(luod.vmm, surface=request.param)


def test_a_vmm_started_again_gets_its_files_back(luod: Luod, start: Start) -> None:
    vmm = start()
    digests = {label: vmm.memfd(label, size=1 << 20, seed=seed) for seed, label in enumerate(("ram", "state"))}
    vmm.ask("make", kind="/dev/null", slot="device")
    vmm.call("stash", name="vm", files={"ram": "ram", "state": "state", "device": "device"})
    vmm.program.kill()
    for keep in (True, False):
        luod.kill_serve()
        vmm = start()
        assert vmm.call("unstash", name="vm", keep=keep) == ["ram", "state", "device"]
        for label, digest in digests.items():
            assert vmm.ask("digest", fd=label) == digest
        vmm.program.kill()
    luod.kill_serve()
    assert start().refused("unstash", name="vm").kind == "NotStashed"
    assert not [link for link in luod.links(luod.supervisor_pid) if "ram" in link]


def test_what_is_held_is_let_go_of_without_taking_it(luod: Luod, start: Start) -> None:
    vmm = start()
    vmm.memfd("ram", seed=1)
    vmm.call("stash", name="vm", files={"ram": "ram"})
    assert vmm.refused("stash", name="vm", files={"ram": "ram"}).kind == "AlreadyStashed"
    vmm.call("drop_stash", name="vm")
    assert vmm.refused("drop_stash", name="vm").kind == "NotStashed"
    vmm.call("stash", name="vm", files={"ram": "ram"})


def test_nobody_else_gets_them_and_nobody_else_knows_of_them(luod: Luod) -> None:
    for_root("for several users in one machine")
    alice, bob, root = luod.vmm(1000), luod.vmm(1001), luod.vmm()
    digest = alice.memfd("ram", seed=1)
    alice.call("stash", name="vm", files={"ram": "ram"})
    unknown = bob.refused("unstash", name="vm")
    for other in (bob, root):
        for call in ("unstash", "drop_stash"):
            error = other.refused(call, name="vm")
            assert (error.kind, error.message) == ("NotStashed", unknown.message)
    bob.memfd("ram", seed=2)
    bob.call("stash", name="vm", files={"ram": "ram"})
    alice.ask("close", fd="ram")
    alice.call("unstash", name="vm")
    assert alice.ask("digest", fd="ram") == digest


def test_only_memory_and_devices_are_held_and_not_too_many(luod: Luod) -> None:
    vmm = luod.vmm()
    vmm.memfd("ram", seed=1)
    vmm.call("create", name="vm", slot="s")
    vmm.call("fd", session="s", slot="session")
    for kind in ("eventfd", "pidfd", "directory", "/proc/self/status"):
        vmm.ask("make", kind=kind, slot=kind)
    vmm.ask("socketpair", slots=["socket", "other end"])
    for slot in ("session", "socket", "eventfd", "pidfd", "directory", "/proc/self/status"):
        error = vmm.refused("stash", name="vm", files={"ram": "ram", "other": slot})
        assert (error.kind, "memory nor a device" in error.message) == ("Refused", True), slot
    assert vmm.refused("stash", name="vm", files={}).kind == "BadInput"
    assert vmm.refused("stash", name="a b", files={"ram": "ram"}).kind == "BadInput"
    # What JSON has for it must not fill the registry.
    for label in ("x" * 128, "\1" * 22, "\U00010000" * 32):
        assert vmm.refused("stash", name="vm", files={label: "ram"}).kind == "Refused"
    assert vmm.refused("stash", name="vm", files={str(n): "ram" for n in range(17)}).kind == "BadInput"
    for number in range(4):
        vmm.call("stash", name=f"vm-{number}", files={str(n): "ram" for n in range(16)})
    assert vmm.refused("stash", name="vm", files={"ram": "ram"}).kind == "Refused"
    vmm.call("drop_stash", name="vm-0")
    vmm.call("stash", name="vm", files={"ram": "ram"})


@pytest.mark.parametrize("policy", ['names = ["{user}/*"]', "sessions = 0"])
def test_who_may_have_no_session_of_the_name_has_no_files_held(machine: Machine, tmp_path: Path, policy: str) -> None:
    """They would keep every update from beginning."""
    for_root("for several users in one machine")
    (tmp_path / "luod.toml").write_text(f"[default]\n{policy}\n")
    luod = Luod(machine, state_directory=tmp_path / "state")
    luod.start("--config", str(tmp_path / "luod.toml"))
    vmm = luod.vmm(1000)
    vmm.memfd("ram", seed=1)
    error = vmm.refused("stash", name="vm", files={"ram": "ram"})
    assert (error.kind, "policy" in error.message) == ("Refused", True)


def test_nothing_is_taken_while_an_update_is_being_checked(luod: Luod) -> None:
    """The checks say what it would lose, so nothing may come after them."""
    vmm = luod.vmm()
    vmm.memfd("ram")
    luod.load()
    vmm.call("unload")
    supervisor = luod.supervisor_pid
    luod.machine.signal(supervisor, signal.SIGSTOP)
    # It waits for the supervisor then, and the checks wait for it.
    load = luod.machine.spawn(luoctl(luod, "load", "--kernel", luod.machine.kernel, "--reuse-cmdline"))
    until_loaded(luod)
    # Of two updates one is refused, as soon as the checks of the other have begun.
    ask = f"{shlex.join(luoctl(luod, 'update', '--dry-run'))}; echo $? >"
    updates = [luod.machine.spawn(["sh", "-c", f"{ask} /run/status-{number}"]) for number in (1, 2)]
    statuses = ["sh", "-c", "cat /run/status-* 2>/dev/null; true"]
    eventually(lambda: "6" in luod.machine.run(statuses).text, describe="an update is being checked")
    assert "an update is running" in vmm.refused("stash", name="vm", files={"ram": "ram"}).message
    luod.machine.signal(supervisor, signal.SIGCONT)
    assert [each.wait() for each in (load, *updates)] == [0, 0, 0]
    assert sorted(luod.machine.run(statuses).text.split()) == ["0", "6"]
    vmm.call("stash", name="vm", files={"ram": "ram"})


def luoctl(luod: Luod, *arguments: str) -> list[str]:
    return luod.python().module("luod.ctl.main", *arguments)


def test_an_update_is_refused_while_files_are_held(luod: Luod) -> None:
    vmm = luod.vmm()
    vmm.memfd("ram", seed=1)
    vmm.call("stash", name="vm", files={"ram": "ram"})
    luod.load()
    assert luod.status()["held_files"] == 1
    refused = luod.luoctl("update", "--dry-run", check=False)
    assert refused.returncode == 4
    assert "files-held" in refused.text
    with luod.machine.expect_jump():
        luod.luoctl("update", "--ignore-finding", "files-held")
    luod.start()
    assert luod.vmm().refused("unstash", name="vm").kind == "NotStashed"
    assert luod.status()["held_files"] == 0
