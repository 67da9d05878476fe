"""`luod` is killed, and every fd goes that only luod had. What is left is found, and nothing else is shown."""

from __future__ import annotations

import re
from pathlib import Path

from luod.testing import Machine
from tests.daemon.host import Luod, states
from tests.daemon.participant import Participant, begin, prepare, start
from tests.library import start_vmm


def killed_and_started_again(luod: Luod) -> None:
    luod.kill_both()
    luod.stop()
    luod.start()


def lost(luod: Luod) -> dict[str, str]:
    """Returns the sessions that luod's log reports lost in this kernel, with the reasons."""
    assert luod.supervisor is not None
    return dict(re.findall(r'session-lost name=(\S+) .*reason="([^"]*)"', luod.supervisor.stderr))


def carried(luod: Luod) -> tuple[Participant, str]:
    """Returns a workload that took part, in the next kernel, and the digest of its frozen state."""
    one = Participant(luod, "one")
    begin(luod)
    prepare(one)
    digest = one.freeze(one.expect("freezing")["generation"])
    with luod.machine.expect_jump():
        one.vote("freezing")
    return one, digest


def test_an_outgoing_session_that_its_client_has_is_carried_by_the_client(luod: Luod) -> None:
    vmm, other = luod.vmm(), luod.vmm()
    vmm.call("create", name="vm", slot="s")
    digest = vmm.memfd("ram")
    vmm.call("preserve", session="s", file="ram", token=1)
    other.call("create", name="other", slot="s")
    other.program.kill()
    killed_and_started_again(luod)
    assert states(vmm) == {"outgoing vm": "dropped"}
    luod.jump()
    after = luod.vmm()
    after.call("retrieve_session", name="vm", slot="s")
    after.call("retrieve", session="s", file=1, slot="ram")
    assert after.ask("digest", fd="ram") == digest


def test_a_client_that_has_the_session_puts_it_into_luods_hands_again(luod: Luod) -> None:
    vmm = luod.vmm()
    vmm.call("create", name="vm", slot="s")
    vmm.memfd("ram")
    vmm.call("preserve", session="s", file="ram", token=1)
    killed_and_started_again(luod)
    vmm.call("replace", session="s", files={"1": "ram"})
    assert states(vmm) == {"outgoing vm": "held"}


def test_what_was_frozen_is_forgotten_with_its_update(luod: Luod) -> None:
    one = Participant(luod, "one")
    begin(luod)
    prepare(one)
    one.freeze(one.expect("freezing")["generation"])
    killed_and_started_again(luod)
    assert states(one.vmm) == {"outgoing one": "dropped"}
    assert luod.status()["state"] == "idle"


def test_a_client_finishes_what_it_had_retrieved(luod: Luod) -> None:
    luod.vmm().call("create", name="vm", slot="s")
    luod.jump()
    vmm = luod.vmm()
    vmm.call("retrieve_session", name="vm", slot="s")
    killed_and_started_again(luod)
    assert states(vmm) == {"incoming vm": "retrieved"}
    vmm.call("finish", session="s", discard=True)
    assert states(vmm) == {}


def test_a_client_gives_up_what_it_had_retrieved(luod: Luod) -> None:
    luod.vmm().call("create", name="vm", slot="s")
    luod.jump()
    vmm = luod.vmm()
    vmm.call("retrieve_session", name="vm", slot="s")
    killed_and_started_again(luod)
    vmm.call("release_named", name="vm", direction="incoming")
    assert states(vmm) == {}


def test_a_guest_is_resumed_from_what_its_vmm_had_retrieved(luod: Luod) -> None:
    carried(luod)
    luod.start()
    vmm = start(luod)
    vmm.call("retrieve_session", name="one", slot="s")
    vmm.call("retrieve_session", name="one#1", slot="f")
    killed_and_started_again(luod)
    vmm.call("method", method="io.luod.Updates.Resuming", parameters={"names": ["one"]})
    assert states(vmm) == {"incoming one": "resumed", "incoming one#1": "resumed"}


def test_half_of_what_a_workload_had_is_torn(luod: Luod) -> None:
    """Only luod had it, since the process it was given to is dead. The other half still waits in the kernel."""
    carried(luod)
    luod.start()
    first, vmm = luod.vmm(), luod.vmm()
    first.call("retrieve_session", name="one#1", slot="s")
    first.program.kill()
    killed_and_started_again(luod)
    assert states(vmm) == {"incoming one": "torn"}
    assert lost(luod) == {"one#1": "only luod had it open, and luod ended"}
    assert vmm.refused("retrieve_session", name="one", slot="s").kind == "Torn"


def test_without_its_registry_it_finds_what_the_file_tells_of(luod: Luod) -> None:
    """As when luod was killed in the jump, or with the registry just retrieved."""
    _one, digest = carried(luod)
    thief = start_vmm(luod.machine, luod.python())
    thief.call("retrieve_session", name="luod", slot="s")
    thief.program.kill()
    luod.start()
    vmm = luod.vmm()
    assert states(vmm) == {"incoming one": "retrieved", "incoming one#1": "retrieved"}
    assert luod.status()["boot"] == 2
    vmm.call("retrieve_session", name="one#1", slot="s")
    vmm.call("retrieve", session="s", file=1, slot="state")
    assert vmm.ask("digest", fd="state") == digest


def test_what_the_file_tells_of_and_the_kernel_has_not_is_lost(luod: Luod) -> None:
    """As after a kexec that ended in a reset (H15): another boot, with nothing carried."""
    carried(luod)
    thief = start_vmm(luod.machine, luod.python())
    for name in ("luod", "one", "one#1"):
        thief.call("retrieve_session", name=name, slot=name)
    thief.program.kill()
    luod.start()
    vmm = luod.vmm()
    assert states(vmm) == {}
    assert lost(luod) == dict.fromkeys(("one", "one#1"), "this kernel does not have it")
    assert luod.status()["state"] == "idle"
    told = luod.luoctl_json("timeline")["timeline"]
    assert (told["state"], told["arrived"], told["now"]) == ("preparing", None, None)
    assert [session["name"] for session in told["sessions"]] == ["one"]
    assert "nothing of it reached the next kernel" in luod.luoctl("timeline").text
    waited = luod.luoctl("wait", "--update", told["update"], check=False)
    assert (waited.returncode, "booted without a kexec of luod" in waited.text) == (9, True)


def test_a_memory_that_luods_session_lacks_is_preserved_again(luod: Luod) -> None:
    """As after PID 1 lost the session alone, and luod began another one: the next kernel would have the file only."""
    source = """
from luod.daemon.log import Log
from luod.daemon.store.journal import Slots
from luod.daemon.store.recovery import _preserve_again
from luod.liveupdate import LiveUpdate
with LiveUpdate() as device:
    session = device.create_session("own")
memory = Slots.new()
for _ in range(2):
    _preserve_again(session, memory, Log("test", "info"))
"""
    luod.stop()
    done = luod.machine.run([luod.python().executable, "-c", source], env=luod.python().environment)
    assert done.stderr.count(b"registry-preserved-again") == 1
    assert b"error" not in done.stderr


def test_a_state_directory_that_is_the_runtime_directory_keeps_its_registry(machine: Machine) -> None:
    """The copy that luod removes there when the state directory is written again would be the registry itself."""
    luod = Luod(machine, state_directory=Path("/run/luod"))
    luod.start()
    client = luod.vmm()
    client.call("create", name="vm", slot="s")
    killed_and_started_again(luod)

    killed_and_started_again(luod)

    assert states(client) == {"outgoing vm": "dropped"}
