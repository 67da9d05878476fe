"""The policy in force: what luod refuses by it, and how it changes without losing anything."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from luod.daemon.log import Log
from luod.daemon.policy.current import Policy
from luod.daemon.store.write_hold import WriteHold
from luod.testing import Machine, eventually
from luod.testing.tools import for_root
from tests.daemon.host import Luod, states, until_followed, until_no_session
from tests.daemon.participant import Participant, begin, start

ALICE, BOB, CAROL = 1000, 1001, 1002


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    return tmp_path / "luod.toml"


@pytest.fixture
def with_policy(machine: Machine, tmp_path: Path, policy: Path) -> Callable[[str], Luod]:
    def begin(text: str) -> Luod:
        policy.write_text(text)
        luod = Luod(machine, state_directory=tmp_path / "state")
        luod.start("--config", str(policy))
        return luod

    return begin


@pytest.fixture
def several_users() -> None:
    for_root("for several users in one machine")


def reload(luod: Luod, done: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """Sends SIGHUP to the supervisor, as systemd does. Returns the status after the reload."""
    luod.machine.signal(luod.supervisor_pid, signal.SIGHUP)

    def look() -> dict[str, Any] | None:
        status = luod.status()
        return status if done(status) else None

    return eventually(look, describe="the new policy is in force")


@pytest.mark.usefixtures("several_users")
def test_names_and_quota_of_a_user(with_policy: Callable[[str], Luod]) -> None:
    luod = with_policy(f'[default]\nnames = []\n[[rules]]\nuid = {ALICE}\nnames = ["mine/*"]\nsessions = 2\n')
    alice, bob, root = luod.vmm(ALICE), luod.vmm(BOB), luod.vmm()
    root.call("create", name="mine/roots", slot="r")
    refused = alice.refused("create", name="other", slot="s")
    assert "does not allow you a session 'other'" in refused.message
    assert "mine/*" in refused.hint
    alice.call("create", name="mine/1", slot="1")
    alice.call("create", name="mine/2", slot="2")
    assert "no more sessions than 2" in alice.refused("create", name="mine/3", slot="3").message
    alice.call("release", session="2")
    alice.call("create", name="mine/3", slot="3")
    # One whom the policy gives no name learns nothing of a name: taken or not, the answer is the same.
    taken, free = bob.refused("create", name="mine/1", slot="s"), bob.refused("create", name="mine/9", slot="s")
    assert taken.message.replace("/1", "/9") == free.message
    assert taken.kind == free.kind


@pytest.mark.usefixtures("several_users")
def test_connections_of_a_user(with_policy: Callable[[str], Luod]) -> None:
    luod = with_policy(f"[[rules]]\nuid = {ALICE}\nconnections = 1\n")
    alice = start(luod, ALICE)
    alice.call("more", slot="one", method="io.luod.Updates.Follow", parameters={"name": "one"})
    other = luod.vmm(ALICE)
    assert "has as many connections to luod as it may: 1" in other.refused("sessions").message
    assert luod.vmm(BOB).call("sessions") == []


@pytest.mark.usefixtures("several_users")
def test_connections_of_all_users_but_root(with_policy: Callable[[str], Luod]) -> None:
    """One user may have many uids. Who has a rule has room when the others have theirs, and root always."""
    luod = with_policy(f"all-connections = 4\n[[rules]]\nuid = {ALICE}\nsessions = 1\n")
    bob = start(luod, BOB)
    for number in range(3):
        bob.call("more", slot=str(number), method="io.luod.Updates.Follow", parameters={"name": "one"})
    refused = luod.vmm(CAROL).refused("sessions")
    assert "users that are not root as it may: 3" in refused.message
    assert "all-connections" in refused.hint
    alice = start(luod, ALICE)
    alice.call("more", slot="one", method="io.luod.Updates.Follow", parameters={"name": "one"})
    assert "as it may: 4" in luod.vmm(CAROL).refused("sessions").message
    assert luod.vmm().call("sessions") == []
    assert luod.status()["participants"] == 4
    bob.program.kill()
    alice.program.kill()
    until_followed(luod, 0)
    assert luod.vmm(CAROL).call("sessions") == []


@pytest.mark.usefixtures("several_users")
def test_who_may_update_does_so_on_everybodys_socket(with_policy: Callable[[str], Luod]) -> None:
    luod = with_policy(f"[[rules]]\nuid = {ALICE}\nmay-update = true\n")
    luod.load()
    luoctl = [luod.python(ALICE).executable, "-m", "luod.ctl.main"]
    environment = luod.python(ALICE).environment

    def run(user: int, *arguments: str) -> int:
        return luod.machine.run([*luoctl, *arguments], env=environment, user=user, check=False).returncode

    assert run(BOB, "status") == 4
    assert run(ALICE, "status") == 0
    assert run(ALICE, "load", "--kernel", luod.machine.kernel) == 4
    assert run(ALICE, "update", "--skip-unready") == 4
    assert run(ALICE, "update", "--dry-run") == 0
    # What is loaded may be checked; an image to read, and what to lose, is root's.
    assert (run(ALICE, "check"), run(BOB, "check")) == (0, 4)
    assert run(ALICE, "check", "--kernel", luod.machine.kernel) == 4
    assert run(ALICE, "update", "--ignore-finding", "no-panic") == 4
    with luod.machine.expect_jump():
        run(ALICE, "update")


def test_a_reload_takes_at_once_and_loses_nothing(with_policy: Callable[[str], Luod], policy: Path) -> None:
    luod = with_policy("")
    vmm = luod.vmm()
    vmm.call("create", name="vm", slot="s")
    participant = Participant(luod, "one")
    serve = luod.serve_pid()
    policy.write_text("[[rules]]\nuid = 0\nsessions = 2\n")
    luod.machine.signal(luod.supervisor_pid, signal.SIGHUP)
    while "error" not in vmm.ask("library", call="create", name="other", slot="o"):
        vmm.call("release_named", name="other")
    assert luod.serve_pid() == serve
    assert states(vmm) == {"outgoing vm": "held", "outgoing one": "held"}
    begin(luod, findings=["contents-undeclared"])
    participant.expect("preparing")


def test_a_bad_new_file_keeps_the_old_one_and_says_so(with_policy: Callable[[str], Luod], policy: Path) -> None:
    luod = with_policy("[[rules]]\nuid = 0\nsessions = 1\n")
    vmm = luod.vmm()
    vmm.call("create", name="vm", slot="s")
    assert luod.status()["policy_error"] is None
    policy.write_text("[[rules]]\nuid = 'root'\n")
    status = reload(luod, lambda status: status["policy_error"] is not None)
    assert status["policy_error"] == f"{policy}: rules[0].uid: is text, not a number"
    assert "no more sessions than 1" in vmm.refused("create", name="other", slot="o").message
    # Nor does a serve that starts over it forget the one that was good.
    luod.kill_serve()
    assert luod.status()["policy_error"] is not None
    assert "no more sessions than 1" in vmm.refused("create", name="other", slot="o").message
    policy.write_text("")
    reload(luod, lambda status: status["policy_error"] is None)
    vmm.call("create", name="other", slot="o")


def test_a_start_with_a_bad_file_serves_what_is_held_and_says_so(
    with_policy: Callable[[str], Luod], policy: Path
) -> None:
    luod = with_policy("oops")
    status = luod.status()
    assert status["policy_file"] == str(policy)
    assert "at end of document" in status["policy_error"]
    assert b"NOT IN FORCE, the file has an error" in luod.luoctl("status").stdout


def test_the_copy_after_a_hold_is_the_policy_in_force(policy: Path, tmp_path: Path) -> None:
    """Also where the file is again what it was, after another one was in force for a while."""
    hold = WriteHold()
    policy.write_text("[[rules]]\nuid = 7\n")
    current = Policy(str(policy), str(tmp_path), hold, Log("test", "error"))
    hold.begin(restoring=True)
    for uid in (8, 7):
        policy.write_text(f"[[rules]]\nuid = {uid}\n")
        current.reload()

    hold.end()

    policy.write_text("oops")
    after = Policy(str(policy), str(tmp_path), hold, Log("test", "error"))
    assert [rule.uid for rule in after.settings.rules] == [7]


STARTS = """
import sys
from luod.daemon.log import Log
from luod.daemon.policy.current import Policy
from luod.daemon.store.write_hold import WriteHold
policy = Policy(sys.argv[1], sys.argv[2], WriteHold(), Log("test", "error"))
print([rule.uid for rule in policy.settings.rules], "tomllib" in sys.modules)
"""


def test_a_start_with_the_file_of_before_reads_no_toml(policy: Path, tmp_path: Path) -> None:
    """luod starts while guests are paused."""

    def start() -> str:
        command = [sys.executable, "-c", STARTS, str(policy), str(tmp_path)]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    policy.write_text("[[rules]]\nuid = 7\n")
    assert (start(), start()) == ("[7] True\n", "[7] False\n")
    policy.write_text("[[rules]]\nuid = 8\n")
    assert (start(), start()) == ("[8] True\n", "[8] False\n")
    policy.write_text("oops")
    assert start() == "[8] True\n"
    policy.write_text("[[rules]]\nuid = 8\n")
    (tmp_path / "policy").write_text('[1, "not the file", {"rules": 3}]')
    assert (start(), start()) == ("[8] True\n", "[8] False\n")
    (tmp_path / "policy").write_text('["[[rules]]\\nuid = 8\\n", {"rules": [{"uid": 8}]}]')
    assert start() == "[8] False\n", "a copy of before it had a number"
    (tmp_path / "policy").write_text('[2, "[[rules]]\\nuid = 8\\n", {"rules": [{"uid": 9}]}]')
    assert (start(), start()) == ("[8] True\n", "[8] False\n"), "a copy of a newer format is written again"
    policy.write_text("oops")
    (tmp_path / "policy").write_text("{")
    assert start() == "[] True\n"


def test_discard_when_the_process_that_created_it_ends(with_policy: Callable[[str], Luod], machine: Machine) -> None:
    luod = with_policy("[[rules]]\nuid = 0\non-owner-death = 'discard'\n")
    watcher = luod.vmm()
    held = len(luod.links(luod.supervisor_pid))
    for kill in (False, True):
        vmm = luod.vmm()
        vmm.call("create", name="vm", slot="s")
        vmm.memfd("ram")
        vmm.call("preserve", session="s", file="ram", token=1)
        if kill:  # nor does it matter which serve it was that knew
            luod.kill_serve()
            assert states(watcher) == {"outgoing vm": "held"}
        vmm.program.kill()
        until_no_session(watcher)
    # The supervisor is asked last.
    eventually(
        lambda: len(luod.links(luod.supervisor_pid)) == held, describe="the supervisor holds no file of the dead"
    )
    watcher.call("create", name="vm", slot="s")


def test_what_was_carried_is_held_whatever_becomes_of_its_owner(with_policy: Callable[[str], Luod]) -> None:
    luod = with_policy("[[rules]]\nuid = 0\non-owner-death = 'discard'\n")
    vmm = luod.vmm()
    vmm.call("create", name="vm", slot="s")
    luod.jump()
    assert states(luod.vmm()) == {"incoming vm": "waiting"}


def test_who_replaced_it_is_its_owner(with_policy: Callable[[str], Luod]) -> None:
    luod = with_policy("[[rules]]\nuid = 0\non-owner-death = 'discard'\n")
    one, two = luod.vmm(), start(luod)
    one.call("create", name="vm", slot="s")
    one.ask("library", call="close", session="s")
    two.call("method", method="io.luod.Sessions.Replace", parameters={"name": "vm"})
    one.program.kill()
    assert states(two) == {"outgoing vm": "held"}
    watcher = luod.vmm()
    two.program.kill()
    until_no_session(watcher)
