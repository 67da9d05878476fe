"""A session that a program created or retrieved by itself, as QEMU's cpr-luo does, in the custody of luod."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from luod.testing import Machine, eventually
from luod.testing.host import SOCKET
from luod.testing.tools import for_root
from tests.daemon.host import Luod, states
from tests.daemon.participant import Operator, Participant
from tests.library import Vmm

Start = Callable[..., Vmm]

CPR_STATE = 1
"""The token of what QEMU's cpr-luo mode writes first. The tokens of its memory follow."""


@pytest.fixture(params=["blocking", "asyncio"])
def start(request: pytest.FixtureRequest, luod: Luod) -> Start:
    return partial(luod.vmm, surface=request.param)


def by_itself(vmm: Vmm, name: bytes, *, slot: str = "own") -> str:
    """Creates a session without luod, with the layout of cpr-luo, and returns the digest of its memory."""
    vmm.create(name, slot=slot)
    vmm.preserved_memfd(token=CPR_STATE, slot=f"state of {slot}", session=slot)
    return vmm.preserved_memfd(token=CPR_STATE + 1, slot=f"ram of {slot}", session=slot)


def test_an_adopted_session_outlives_its_program_and_is_carried(luod: Luod, start: Start) -> None:
    vmm = start()
    digest = by_itself(vmm, b"qemu")
    vmm.call("adopt", fd="own", slot="held")
    assert (vmm.call("name", session="held"), states(vmm)) == ("qemu", {"outgoing qemu": "held"})
    vmm.program.kill()
    luod.kill_serve()
    luod.jump()
    vmm = start()
    vmm.call("retrieve_session", name="qemu", slot="s")
    vmm.call("retrieve", session="s", file=CPR_STATE + 1, slot="ram")
    assert vmm.ask("digest", fd="ram") == digest
    vmm.call("finish", session="s", discard=True)
    assert states(vmm) == {}


def test_a_session_that_a_program_retrieved_by_itself_is_handed_out_again(luod: Luod, start: Start) -> None:
    vmm = start()
    by_itself(vmm, b"qemu")
    luod.load()
    luod.force_update()
    luod.start()
    vmm = start()
    vmm.retrieve(b"qemu", slot="own")
    assert states(vmm) == {}, "luod never knew of it"
    vmm.call("adopt", fd="own", slot="held")
    assert states(vmm) == {"incoming qemu": "retrieved"}
    vmm.program.kill()
    vmm = start()
    vmm.call("retrieve_session", name="qemu", slot="s")
    vmm.call("retrieve", session="s", file=CPR_STATE + 1, slot="ram")
    vmm.call("finish", session="s", discard=True)
    assert states(vmm) == {}


def test_a_program_that_took_its_carried_session_past_luod_can_give_it_back(luod: Luod) -> None:
    vmm = luod.vmm()
    vmm.call("create", name="vm", slot="s")
    luod.jump()
    vmm = luod.vmm()
    vmm.retrieve(b"vm", slot="own")
    assert states(vmm) == {"incoming vm": "waiting"}
    vmm.call("adopt", fd="own", slot="held")
    assert states(vmm) == {"incoming vm": "retrieved"}
    vmm.call("finish", session="held", discard=True)
    assert states(vmm) == {}


def test_a_finished_session_is_taken_for_one_in_use_and_can_be_released(luod: Luod) -> None:
    """Its name and its direction are as before (H10); only a manifest would show that it is finished."""
    vmm = luod.vmm()
    by_itself(vmm, b"qemu")
    luod.load()
    luod.force_update()
    luod.start()
    vmm = luod.vmm()
    vmm.retrieve(b"qemu", slot="own")
    vmm.ask("finish", session="own")
    vmm.call("adopt", fd="own", slot="held")
    assert states(vmm) == {"incoming qemu": "retrieved"}
    vmm.call("release_named", name="qemu", direction="incoming", finished=True)
    assert states(vmm) == {}


def test_the_same_session_twice_is_one(luod: Luod) -> None:
    vmm = luod.vmm()
    by_itself(vmm, b"qemu")
    vmm.ask("dup", fd="own", slot="again")
    held = []
    for slot in ("own", "again"):
        vmm.call("adopt", fd=slot, slot=slot)
        held.append(len(luod.links(luod.supervisor_pid)))
    assert held[0] == held[1]
    vmm.call("create", name="vm", slot="ours")
    vmm.call("fd", session="ours", slot="ours")
    vmm.call("adopt", fd="ours", slot="ours again")
    assert states(vmm) == {"outgoing qemu": "held", "outgoing vm": "held"}


def test_a_session_that_luod_dropped_is_held_again(luod: Luod) -> None:
    vmm = luod.vmm()
    vmm.call("create", name="vm", slot="s")
    vmm.call("fd", session="s", slot="own")
    luod.kill_both()
    luod.start()
    assert states(vmm) == {"outgoing vm": "dropped"}
    vmm.call("adopt", fd="own", slot="held")
    assert states(vmm) == {"outgoing vm": "held"}


def test_an_adopted_session_takes_part_in_updates_and_is_released(luod: Luod) -> None:
    vmm = luod.vmm()
    by_itself(vmm, b"qemu")
    vmm.call("adopt", fd="own", slot="held")
    vmm.memfd("more")
    assert vmm.call("preserve", session="held", file="more", token=7) == 7
    vmm.ask("close", fd="own")
    vmm.call("release", session="held")
    assert states(vmm) == {}
    vmm.call("create", name="qemu", slot="new")


def test_what_is_not_a_session_is_refused(luod: Luod, start: Start) -> None:
    vmm = start()
    vmm.memfd("ram")
    vmm.ask("socketpair", slots=["socket", "other end"])
    for kind in ("eventfd", "pidfd", "directory", "/proc/self/status", "/dev/null"):
        vmm.ask("make", kind=kind, slot=kind)
    vmm.open_device()
    for slot in ("ram", "socket", "eventfd", "pidfd", "directory", "/proc/self/status", "/dev/null", "device"):
        error = vmm.refused("adopt", fd=slot, slot="held")
        assert (error.kind, "is not a session" in error.message) == ("BadInput", True), slot
    assert states(vmm) == {}


def test_memory_with_the_name_of_a_session_is_not_one(luod: Luod) -> None:
    """On an emulated machine sessions look like this memfd; the kernel's answer tells."""
    luod.run_source(
        """
import os, sys, luod
number = os.memfd_create("[luo_session] vm")
try:
    luod.Client(sys.argv[1]).adopt(number)
except luod.BadInput as error:
    assert "is not a session" in str(error), error
else:
    raise AssertionError("it was adopted")
""",
        SOCKET,
    )


@pytest.mark.parametrize("name", [b"luod", b"luod-other", b"systemd", b"a b", b"a\xff", b"a#01#2", b"\x1b[2J"])
def test_a_name_that_luod_does_not_take_is_refused_in_words(luod: Luod, name: bytes) -> None:
    """A session that has one stays its program's."""
    vmm = luod.vmm()
    if name == b"luod":
        assert vmm.says("open", path="/dev/liveupdate", flags=os.O_RDWR, slot="device") == "OK"
        assert vmm.says("create", device="device", name=name, slot="own") == "EEXIST", "luod's own session is there"
        return
    vmm.create(name, slot="own")
    error = vmm.refused("adopt", fd="own", slot="held")
    assert error.kind == "BadInput"
    assert error.hint
    assert error.message.isprintable()
    assert states(vmm) == {}
    assert len(sessions_of(luod, luod.supervisor_pid)) == 1, "luod's own"


def test_a_name_of_an_update_is_for_its_participants(luod: Luod) -> None:
    vmm = luod.vmm()
    vmm.create(b"vm#3", slot="own")
    assert vmm.refused("adopt", fd="own", slot="held").kind == "BadInput"
    vmm.call("create", name="vm", slot="vm")
    assert vmm.refused("adopt", fd="own", slot="held").kind == "WrongPhase"
    luod.load()
    luod.force_update()
    luod.start()
    vmm = luod.vmm()
    vmm.create(b"vm#3", slot="own")
    vmm.call("retrieve_session", name="vm", slot="vm")
    assert vmm.refused("adopt", fd="own", slot="held").kind == "BadInput"


def test_the_fd_is_the_authority_but_a_name_has_one_owner(luod: Luod) -> None:
    for_root("for several users in one machine")
    root, alice = luod.vmm(), luod.vmm(1000)
    by_itself(root, b"qemu")
    root.call("adopt", fd="own", slot="held")
    # Alice has an fd of it nevertheless: as her own process, since only root can open the device here.
    child = root.fork_vmm("alice")
    child.become(1000)
    error = child.refused("adopt", fd="own", slot="held")
    assert (error.kind, error.errno) == ("SessionExists", "EEXIST")
    assert states(alice) == {}
    root.call("release", session="held")
    child.call("adopt", fd="own", slot="held")
    assert states(alice) == {"outgoing qemu": "held"}
    # Root may use her session, and she stays its owner.
    root.call("adopt", fd="own", slot="held")
    assert states(alice) == {"outgoing qemu": "held"}


@pytest.mark.parametrize(
    ("policy", "says"), [('names = ["{user}/*"]', "does not allow"), ("sessions = 1", "no more sessions")]
)
def test_the_policy_limits_what_is_adopted(machine: Machine, tmp_path: Path, policy: str, says: str) -> None:
    for_root("for several users in one machine")
    (tmp_path / "luod.toml").write_text(f"[default]\n{policy}\n")
    luod = Luod(machine, state_directory=tmp_path / "state")
    luod.start("--config", str(tmp_path / "luod.toml"))
    root = luod.vmm()
    for slot in ("one", "two"):
        root.create(slot.encode(), slot=slot)
    alice = root.fork_vmm("alice")
    alice.become(1000)
    if "sessions" in policy:
        alice.call("adopt", fd="one", slot="held")
    error = alice.refused("adopt", fd="two", slot="more")
    assert (error.kind, says in error.message) == ("Refused", True)
    assert "outgoing two" not in states(luod.vmm())


def test_no_session_is_adopted_while_guests_are_paused(luod: Luod) -> None:
    """The checks of the update are over by then, and the registry must not change before the kexec."""
    vmm = luod.vmm()
    by_itself(vmm, b"qemu")
    participant = Participant(luod, "vm")
    luod.load()
    operator = Operator(luod)
    operator.update()
    participant.expect("preparing")
    participant.vote("preparing")
    participant.expect("freezing")
    assert vmm.refused("adopt", fd="own", slot="held").kind == "Busy"
    participant.vote("freezing", "veto", "not now")
    participant.expect("cancelled")
    eventually(lambda: luod.status()["state"] == "idle", describe="the update is over")
    vmm.call("adopt", fd="own", slot="held")
    assert states(vmm) == {"outgoing qemu": "held", "outgoing vm": "held"}


_ADOPT = """
import sys, luod
with luod.LiveUpdate() as device:
    session = device.create_session("qemu")
try:
    luod.Client(sys.argv[1], timeout=60).adopt(session)
except luod.DaemonUnreachable:
    luod.Client(sys.argv[1], timeout=60).__enter__().adopt(session)
sys.stdin.read()
"""


@pytest.mark.parametrize("victim", ["serve", "program", "serve and program"])
def test_a_death_in_the_middle_of_the_call_loses_nothing_that_lives(luod: Luod, victim: str) -> None:
    """While the supervisor is stopped, serve has the session and no answer."""
    python, supervisor, serve = luod.python(), luod.supervisor_pid, luod.serve_pid()
    luod.machine.signal(supervisor, signal.SIGSTOP)
    program = luod.machine.spawn([python.executable, "-c", _ADOPT, SOCKET], env=python.environment, forked=True)
    eventually(
        lambda: any("[luo_session] qemu" in link for link in luod.links(serve)), describe="serve has the session"
    )
    if "serve" in victim:
        luod.machine.signal(serve, signal.SIGKILL)
    if "program" in victim:
        program.kill()
    luod.machine.signal(supervisor, signal.SIGCONT)
    vmm = luod.vmm()
    if victim == "serve and program":
        # No process that asked for it is there: no row was written, so the next serve drops what the supervisor had.
        eventually(
            lambda: len(sessions_of(luod, luod.supervisor_pid)) == 1,
            describe="the supervisor has only luod's own session",
        )
        assert states(vmm) == {}
        eventually(lambda: vmm.can_create(b"qemu") == "OK", describe="the name is free")
        assert len(sessions_of(luod, luod.supervisor_pid)) == 1
    else:
        eventually(lambda: states(vmm) == {"outgoing qemu": "held"}, describe="the session is adopted")
        assert len(sessions_of(luod, supervisor)) == 2


def sessions_of(luod: Luod, pid: int) -> list[str]:
    """Returns the links of the sessions that a process has open."""
    return [link for link in luod.links(pid) if "[luo_session]" in link]
