"""Looking changes nothing: no command that only shows something retrieves a session, or becomes the one that has it."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from luod.testing import Machine, eventually
from luod.testing.tools import for_root
from tests.daemon.host import Luod, preserve_two, states, until_gone
from tests.library import Vmm

ALICE = 1000
LOOKS = (
    ("show", "vm"),
    ("show", "other"),
    ("list",),
    ("status",),
    ("timeline",),
    ("metrics",),
    ("check",),
    ("update", "--dry-run"),
    ("--json", "show", "vm"),
)


@pytest.fixture
def luod(machine: Machine, tmp_path: Path) -> Luod:
    """Returns luod with a long restore deadline, after a kexec that preserved Alice's sessions "vm" and "other"."""
    for_root("for several users in one machine")
    policy = tmp_path / "luod.toml"
    policy.write_text("")
    luod = Luod(machine, state_directory=tmp_path / "state")
    luod.start("--config", str(policy))
    preserve_two(luod, ALICE)
    luod.load()
    luod.force_update()
    policy.write_text("restore-deadline = 1000\n")
    luod.start("--config", str(policy))
    return luod


def pass_the_deadline(luod: Luod, tmp_path: Path) -> None:
    """Returns when the restore deadline is over and abandoned sessions are discarded."""
    (tmp_path / "luod.toml").write_text("restore-deadline = 0.001\n")
    luod.machine.signal(luod.supervisor_pid, signal.SIGHUP)
    until_gone(luod.vmm(), "incoming other")


def restores(vmm: Vmm) -> None:
    vmm.call("retrieve", session="s", file="ram", slot="ram")
    vmm.call("retrieve_session", name="vm", slot="again")
    vmm.call("finish", session="s")
    assert states(vmm) == {}


def test_after_every_command_that_shows_something_the_session_is_still_its_vmms(luod: Luod, tmp_path: Path) -> None:
    vmm = luod.vmm(ALICE)
    vmm.call("retrieve_session", name="vm", slot="s")
    for look in LOOKS:
        luod.luoctl(*look, check=False)
    assert states(vmm) == {"incoming other": "waiting", "incoming vm": "retrieved"}
    pass_the_deadline(luod, tmp_path)
    assert states(vmm) == {"incoming vm": "retrieved"}
    assert [file["name"] for file in luod.luoctl_json("show", "vm")["files"]] == ["ram"]
    restores(vmm)


def test_a_session_that_waits_is_shown_without_its_contents_and_waits_on(luod: Luod) -> None:
    found = luod.luoctl_json("show", "vm")
    assert (found["state"], found["files"], found["process"], found["owner"]) == ("waiting", None, None, ALICE)
    assert "waits in the kernel" in found["note"]
    assert luod.vmm(ALICE).refused("manifest", name="vm", direction="incoming").kind == "NoManifest"
    assert states(luod.vmm()) == {"incoming other": "waiting", "incoming vm": "waiting"}


def test_root_that_retrieves_a_session_of_a_living_process_does_not_become_its_claimant(
    luod: Luod, tmp_path: Path
) -> None:
    vmm, root = luod.vmm(ALICE), luod.vmm()
    vmm.call("retrieve_session", name="vm", slot="s")
    owners = luod.luoctl_json("show", "vm")["process"]
    root.call("retrieve_session", name="vm", slot="s")
    found = luod.luoctl_json("show", "vm")
    assert (found["process"], found["owner"]) == (owners, ALICE)
    root.program.kill()
    pass_the_deadline(luod, tmp_path)
    restores(vmm)


def test_root_restores_for_a_user_until_a_process_of_that_user_has_the_session(luod: Luod, tmp_path: Path) -> None:
    root = luod.vmm()
    root.call("retrieve_session", name="vm", slot="s")
    of_root = luod.luoctl_json("show", "vm")["process"]
    assert of_root is not None
    vmm = luod.vmm(ALICE)
    vmm.call("retrieve_session", name="vm", slot="s")
    assert luod.luoctl_json("show", "vm")["process"] not in (None, of_root)
    root.program.kill()
    pass_the_deadline(luod, tmp_path)
    restores(vmm)


def test_a_session_is_left_to_the_vmm_that_has_it_when_the_process_that_retrieved_it_last_ends(
    luod: Luod, tmp_path: Path
) -> None:
    vmm, passing = luod.vmm(ALICE), luod.vmm(ALICE)
    vmm.call("retrieve_session", name="vm", slot="s")
    passing.call("retrieve_session", name="vm", slot="s")
    pass_the_deadline(luod, tmp_path)
    passing.program.kill()
    eventually(lambda: luod.luoctl_json("show", "vm")["process"] is None, describe="no process has the session")
    assert "has it open" in luod.luoctl("discard", "vm", check=False).stderr.decode()
    assert luod.luoctl_json("show", "vm")["state"] == "retrieved"
    vmm.call("retrieve", session="s", file="ram", slot="ram")
    vmm.program.kill()
    until_gone(luod.vmm(), "incoming vm")


def test_the_manifest_that_is_shown_cannot_be_written_to(luod: Luod) -> None:
    vmm = luod.vmm(ALICE)
    vmm.call("retrieve_session", name="vm", slot="s")
    look = (
        "import os, sys\n"
        "from luod.ipc.client.connection import perform\n"
        "from luod.ipc.client.sessions import Call\n"
        "def steps():\n"
        "    reply = yield Call('Manifest', {'name': 'vm', 'direction': 'incoming'})\n"
        "    return reply.take('manifest_fd')\n"
        "fd = perform(steps(), sys.argv[1], 30)\n"
        "import fcntl; print(fcntl.fcntl(fd.fileno(), fcntl.F_GETFL) & os.O_ACCMODE)\n"
    )
    python = luod.python()
    said = luod.machine.run([python.executable, "-c", look, "/run/luod/luod.sock"], env=python.environment, forked=True)
    assert int(said.text) == os.O_RDONLY
