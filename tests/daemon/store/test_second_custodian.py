"""A luod whose every process ended, and what PID 1 had of it: no session that PID 1 holds is closed, whatever the
copies of the registry tell.
"""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from luod.daemon.store.recovery import SESSION
from luod.testing import Machine, eventually
from tests.daemon.host import Luod, states, until_no_session
from tests.library import start_vmm

REGISTRY = "registry."


class Managed(Luod):
    """A host whose luod is started by a service manager with an fd store."""

    def start_managed(self, *arguments: str) -> None:
        python = self.python()
        command = python.module("luod.daemon.main", "--state-directory", self.state_directory, *arguments)
        self.manager = start_vmm(self.machine, python, "service_manager", tuple(command)).program
        self.start_again()

    def start_again(self, *without: str) -> None:
        """Starts luod with what is in the store, without the fds whose names begin with one of these."""
        answer = self.manager.ask({"start": without})
        assert answer["ready"], self.manager.stderr
        self.main_pid: int = answer["pid"]

    @property
    def supervisor_pid(self) -> int:
        return self.main_pid

    def end(self) -> None:
        """Ends every process of luod with SIGKILL, the supervisor last, as systemd does."""
        serve = self.serve_pid()
        for pid in (self.main_pid, serve):
            self.machine.signal(pid, signal.SIGKILL)

    def stored(self) -> list[str]:
        """Returns the names in the store, without the boot."""
        return [name.partition(".")[2] for name in self.manager.ask({})["names"]]


@pytest.fixture
def managed(machine: Machine, tmp_path: Path) -> Managed:
    managed = Managed(machine, state_directory=tmp_path / "state")
    managed.start_managed()
    return managed


def test_sessions_and_stashed_files_outlive_every_process_of_luod(managed: Managed) -> None:
    vmm = managed.vmm()
    vmm.call("create", name="vm", slot="s")
    digest = vmm.memfd("ram", seed=1)
    vmm.call("stash", name="vm", files={"ram": "ram", "again": "ram"})
    managed.end()
    managed.start_again()

    after = managed.vmm()

    assert states(after) == {"outgoing vm": "held"}
    assert after.call("unstash", name="vm") == ["ram", "again"]
    assert after.ask("digest", fd="ram") == after.ask("digest", fd="again") == digest


def test_a_session_that_pid_1_made_for_another_unit_is_left_to_it(managed: Managed) -> None:
    """LUOSession=. PID 1 can open the device, since luod has it open for single calls only."""
    unit = managed.vmm()

    unit.create(b"db.service-1a2b", slot="state")
    managed.end()
    managed.start_again()

    assert states(managed.vmm()) == {}
    assert managed.luoctl("release", "db.service-1a2b", check=False).returncode != 0
    for pid in (managed.supervisor_pid, managed.serve_pid()):
        assert not [link for link in managed.links(pid) if "db.service" in link or "/dev/liveupdate" in link]
    unit.memfd("ram", seed=1)
    assert unit.says("preserve", session="state", fd="ram", token=7) == "OK"


def test_a_session_is_replaced_while_pid_1_has_it(managed: Managed) -> None:
    vmm = managed.vmm()
    vmm.call("create", name="vm", slot="s")
    vmm.memfd("ram", seed=1)
    vmm.call("preserve", session="s", file="ram", token=1)

    vmm.call("replace", session="s", files={"1": "ram"})

    assert "outgoing.vm" in managed.stored()


def test_both_sessions_of_a_process_end_with_it_after_a_restart(machine: Machine, tmp_path: Path) -> None:
    """luod watches it by one pidfd, that of its connection, under two names."""
    managed, policy = Managed(machine, state_directory=tmp_path / "state"), tmp_path / "luod.toml"
    policy.write_text("[default]\non-owner-death = 'discard'\n[[rules]]\nuid = 0\non-owner-death = 'discard'\n")
    managed.start_managed("--config", str(policy))
    vmm = managed.vmm()
    for name in ("one", "two"):
        vmm.call("create", name=name, slot=name)
    managed.end()
    managed.start_again()
    other = managed.vmm()
    assert states(other) == {"outgoing one": "held", "outgoing two": "held"}

    vmm.program.kill()

    until_no_session(other)


@pytest.mark.parametrize("file", ["kept", "lost"])
def test_what_pid_1_holds_is_kept_without_the_registrys_memory(managed: Managed, file: str) -> None:
    """From the file; or without it as root's, as nobody knows whose it was."""
    vmm = managed.vmm()
    vmm.call("create", name="vm", slot="s")
    digest = vmm.memfd("ram", seed=1)
    vmm.call("stash", name="vm", files={"ram": "ram", "again": "ram"})
    managed.end()
    if file == "lost":
        managed.machine.run(["sh", "-c", f"rm {managed.state_directory}/registry*"])
    vmm.program.kill()
    managed.start_again(REGISTRY)

    after = managed.vmm()

    assert states(after) == {"outgoing vm": "held"}
    assert "outgoing.vm" in managed.stored()
    problems = [problem["what"] for problem in managed.status()["registry"]]
    assert bool(problems) == (file == "lost")
    (name, labels) = ("vm", ["ram", "again"]) if file == "kept" else ("unknown-1", ["held.1", "held.2"])
    assert after.call("unstash", name=name) == labels
    assert after.ask("digest", fd=labels[0]) == digest


def test_the_registrys_memory_counts_though_luods_session_is_gone_and_cannot_be_begun_yet(managed: Managed) -> None:
    """PID 1 lost the session alone, another process has the device open, and the file knows less than the memory."""
    vmm, holder = managed.vmm(), managed.vmm()
    vmm.call("create", name="vm", slot="s")
    digest = vmm.memfd("ram", seed=1)
    vmm.call("stash", name="vm", files={"ram": "ram"})
    managed.end()
    managed.machine.run(["sh", "-c", f"rm {managed.state_directory}/registry*"])
    holder.open_device()
    starting = managed.manager.send({"start": [f"outgoing.{SESSION}"]})
    eventually(lambda: "device-busy" in managed.manager.stderr, describe="luod finds the device busy")
    holder.ask("close", fd="device")
    answer = managed.manager.answer(starting)
    assert answer["ready"], managed.manager.stderr
    managed.main_pid = answer["pid"]

    after = managed.vmm()

    assert states(after) == {"outgoing vm": "held"}
    assert managed.status()["registry"] == []
    assert after.call("unstash", name="vm") == ["ram"]
    assert after.ask("digest", fd="ram") == digest
    assert "registry-preserved-again" in managed.manager.stderr


def test_stashed_files_that_pid_1_lost_are_named_and_the_others_are_there(managed: Managed) -> None:
    vmm = managed.vmm()
    for label in ("ram", "state"):
        vmm.memfd(label, seed=len(label))
    vmm.call("stash", name="vm", files={"ram": "ram", "state": "state"})
    managed.end()
    managed.start_again("held.1")

    assert managed.vmm().call("unstash", name="vm") == ["state"]


def test_of_two_memories_of_the_registry_the_one_is_used_that_wrote_the_file(managed: Managed) -> None:
    """As when serve is killed before it drops the old one."""
    vmm = managed.vmm()
    vmm.call("create", name="vm", slot="s")
    (first,) = [name for name in managed.stored() if name.startswith(REGISTRY)]
    managed.end()
    managed.manager.ask({"hide": first})
    managed.start_again()  # begins another registry, from the file
    vmm = managed.vmm()
    vmm.call("create", name="new", slot="n")
    managed.end()
    managed.manager.ask({"show": first})
    managed.start_again()

    assert states(managed.vmm()) == {"outgoing vm": "held", "outgoing new": "held"}
    assert len([name for name in managed.stored() if name.startswith(REGISTRY)]) == 1
    assert any("another registry" in problem["what"] for problem in managed.status()["registry"])
