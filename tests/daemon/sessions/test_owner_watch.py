"""The owner of a session: with several uids in one machine, which requires root, or else with one user."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from luod.testing import eventually
from luod.testing.host import ADMIN_SOCKET
from luod.testing.plugin import BootMachine
from luod.testing.tools import for_root
from tests.daemon.host import Luod, states

ALICE, BOB = 1000, 1001


@pytest.fixture
def several_users() -> None:
    for_root("for several users in one machine")


@pytest.mark.usefixtures("several_users")
def test_somebody_elses_session_and_one_that_does_not_exist_get_the_same_answer(luod: Luod) -> None:
    alice, bob, root = luod.vmm(ALICE), luod.vmm(BOB), luod.vmm()
    alice.call("create", name="alice/vm", slot="s")
    assert states(alice) == {"outgoing alice/vm": "held"}
    assert states(bob) == {}
    assert states(root) == {"outgoing alice/vm": "held"}
    hers = bob.refused("release_named", name="alice/vm")
    nobodys = bob.refused("release_named", name="bob/vm")
    assert hers.kind == nobodys.kind == "NoSuchSession"
    assert hers.message.replace("alice", "bob") == nobodys.message
    assert hers.hint == nobodys.hint
    assert states(alice) == {"outgoing alice/vm": "held"}


@pytest.mark.usefixtures("several_users")
def test_an_incoming_session_is_its_owners_and_roots(luod: Luod) -> None:
    alice = luod.vmm(ALICE)
    for name in ("one", "two"):
        alice.call("create", name=name, slot=name)
    luod.jump()
    alice, bob, root = luod.vmm(ALICE), luod.vmm(BOB), luod.vmm()
    assert bob.refused("retrieve_session", name="one", slot="s").kind == "NoSuchSession"
    assert bob.refused("release_named", name="one", direction="incoming").kind == "NoSuchSession"
    # Its name is taken meanwhile, so that no other session can be mistaken for the owner's next one.
    assert bob.refused("create", name="one", slot="s").kind == "SessionExists"
    alice.call("retrieve_session", name="one", slot="one")
    root.call("retrieve_session", name="two", slot="two")
    alice.call("create", name="one", slot="next")
    assert states(alice) == {"incoming one": "retrieved", "incoming two": "retrieved", "outgoing one": "held"}


@pytest.mark.usefixtures("several_users")
def test_the_user_that_stands_for_many_is_nobodys_owner(luod: Luod) -> None:
    stranger = luod.vmm(65534)
    refused = stranger.refused("create", name="vm", slot="s")
    assert refused.kind == "CallFailed"
    assert states(stranger) == {}
    assert stranger.refused("retrieve_session", name="vm", slot="s").kind == "NoSuchSession"


@pytest.mark.usefixtures("several_users")
def test_the_admin_socket_is_roots(luod: Luod) -> None:
    stranger = luod.vmm(ALICE, socket=ADMIN_SOCKET)
    assert stranger.refused("sessions").kind == "DaemonUnreachable"
    root = luod.vmm(socket=ADMIN_SOCKET)
    root.call("create", name="vm", slot="s")
    assert states(root) == {"outgoing vm": "held"}


@pytest.fixture
def ordinary(boot_machine: BootMachine) -> Iterator[Luod]:
    """Yields luod on a machine of an ordinary user: its only user is root, which is that user outside."""
    user = ALICE if os.getuid() == 0 else None
    with tempfile.TemporaryDirectory(prefix="luod-") as state:
        if user is not None:
            os.chown(state, user, user)
        luod = Luod(boot_machine(user=user), state_directory=Path(state) / "state")
        luod.start()
        yield luod
        luod.stop()


def test_one_user_is_enough(ordinary: Luod) -> None:
    vmm = ordinary.vmm()
    vmm.call("create", name="vm", slot="s")
    digest = vmm.memfd("ram", seed=1)
    vmm.call("preserve", session="s", file="ram", token=1)
    ordinary.jump()
    vmm = ordinary.vmm()
    vmm.call("retrieve_session", name="vm", slot="s")
    vmm.call("retrieve", session="s", file=1, slot="ram")
    assert vmm.ask("digest", fd="ram") == digest
    vmm.call("finish", session="s")
    assert states(vmm) == {}


def test_the_serve_after_a_killed_one_knows_the_process_that_retrieved_a_session(luod: Luod) -> None:
    luod.vmm().call("create", name="vm", slot="s")
    luod.jump()
    known = watched(luod)
    vmm = luod.vmm()
    vmm.call("retrieve_session", name="vm", slot="s")
    process = luod.luoctl_json("show", "vm")["process"]
    assert process is not None
    eventually(lambda: watched(luod) > known, describe="the supervisor watches the process")

    luod.kill_serve()

    assert luod.luoctl_json("show", "vm")["process"] == process
    vmm.program.kill()
    eventually(lambda: luod.luoctl_json("show", "vm")["process"] is None, describe="no process has the session")


def watched(luod: Luod) -> int:
    """Returns how many processes the supervisor has an fd of."""
    return sum("pidfd" in link for link in luod.links(luod.supervisor_pid))
