"""An update in which luod, or the kernel, does not go on: the way back is whole (H13), or the jump is."""

from __future__ import annotations

import json
import signal

from luod.testing import eventually, require_tool
from luod.testing.host import SOCKET
from tests.daemon.host import Luod, states, until_loaded, without_counted_loads
from tests.daemon.participant import Operator, Participant, begin, jump_with, prepare, start, started_jump
from tests.library import start_vmm


def frozen(luod: Luod, *participants: Participant) -> Operator:
    """Begins an update in which all participants were told to freeze, and have written their state."""
    operator = begin(luod)
    prepare(*participants)
    for participant in participants:
        generation = participant.expect("freezing")["generation"]
        participant.freeze(generation)
    return operator


def broken_off(participant: Participant) -> None:
    assert participant.vmm.refused("next", slot="follow").kind == "DaemonUnreachable"


def follow_again(participant: Participant) -> str:
    """Follows luod again. Returns the state that luod reports."""
    participant.vmm.call("hang_up", slot="follow")
    state: str = participant.follow()["state"]
    return state


def test_serve_killed_while_it_prepares(luod: Luod) -> None:
    one = Participant(luod, "one")
    begin(luod)
    # It does not vote: it would be freezing at once.
    one.expect("preparing")
    luod.kill_serve()
    broken_off(one)
    assert follow_again(one) == "idle"
    assert luod.status()["state"] == "idle"
    assert states(one.vmm) == {"outgoing one": "held"}
    one.declare()
    carries(luod, one, generation=2)


def carries(luod: Luod, one: Participant, generation: int) -> None:
    """Does a whole update, and checks the sessions that it preserved."""
    operator = Operator(luod)
    operator.update()
    assert one.expect("preparing")["generation"] == generation
    one.vote("preparing")
    one.expect("freezing")
    one.freeze(generation)
    jump_with(luod, one)
    assert states(start(luod)) == {f"incoming {one.name}": "waiting", f"incoming {one.name}#{generation}": "waiting"}


def test_serve_killed_while_it_freezes(luod: Luod) -> None:
    """The sessions of the freeze are closed, and no session is marked as ready."""
    one, two = Participant(luod, "one"), Participant(luod, "two")
    frozen(luod, one, two)
    one.vote("freezing")
    luod.kill_serve()
    broken_off(one)
    assert follow_again(one) == "idle"
    assert states(one.vmm) == {"outgoing one": "held", "outgoing two": "held"}
    two.vmm.program.kill()
    operator = Operator(luod)
    operator.update()
    assert "one, two" in operator.refused().message
    one.vmm.call("release_named", name="two")
    one.declare()
    carries(luod, one, generation=2)


def test_after_serve_was_killed_a_jump_behind_luods_back_tears(luod: Luod) -> None:
    one, two = Participant(luod, "one"), Participant(luod, "two")
    frozen(luod, one, two)
    one.vote("freezing")
    luod.kill_serve()
    assert luod.status()["state"] == "idle"
    luod.load()
    with luod.machine.expect_jump():
        one.vmm.ask("library", call="jump")
    luod.start()
    listed = states(start(luod))
    assert (listed["incoming one"], listed["incoming two"]) == ("torn", "torn")


def stopped_jump(luod: Luod, one: Participant) -> int:
    """Stops the process that calls reboot(2), with its order in its pipe. Returns its pid."""
    operator = frozen(luod, one)
    jump = started_jump(luod)
    luod.machine.signal(jump, signal.SIGSTOP)
    one.vote("freezing")
    one.expect("jumping")
    operator.until("jumping")
    wait = "import os, select, sys; p = select.poll(); p.register(os.open(sys.argv[1], os.O_RDONLY), 1); p.poll()"
    luod.machine.run([luod.python().executable, "-c", wait, f"/proc/{jump}/fd/0"])
    return jump


def test_from_the_jump_on_abort_is_refused(luod: Luod) -> None:
    one = Participant(luod, "one")
    jump = stopped_jump(luod, one)
    refused = Operator(luod).refused_abort()
    assert refused.kind == "CallFailed"
    assert "reboot(2)" in refused.message
    assert one.vmm.refused("create", name="new", slot="n").kind == "Busy"
    with luod.machine.expect_jump():
        luod.machine.signal(jump, signal.SIGCONT)
    luod.start()
    assert states(start(luod)) == {"incoming one": "waiting", "incoming one#1": "waiting"}


def test_serve_killed_while_it_jumps_waits_for_the_jump(luod: Luod) -> None:
    """reboot(2) may still succeed, so participants are not told to resume before its process ends."""
    one = Participant(luod, "one")
    jump = stopped_jump(luod, one)
    luod.kill_serve()
    broken_off(one)
    assert follow_again(one) == "jumping"
    assert luod.status()["state"] == "jumping"
    assert "reboot(2)" in Operator(luod).refused_abort().message
    operator = Operator(luod)
    operator.update()
    assert operator.refused().message == "an update is running: jumping"
    with luod.machine.expect_jump():
        luod.machine.signal(jump, signal.SIGCONT)
    luod.start()
    assert states(start(luod)) == {"incoming one": "waiting", "incoming one#1": "waiting"}


def test_serve_killed_while_it_jumps_cancels_when_the_jump_is_over(luod: Luod) -> None:
    one = Participant(luod, "one")
    jump = stopped_jump(luod, one)
    luod.kill_serve()
    broken_off(one)
    assert follow_again(one) == "jumping"
    luod.machine.signal(jump, signal.SIGKILL)
    one.expect("cancelled")
    assert states(one.vmm) == {"outgoing one": "held"}
    assert luod.status()["state"] == "idle"
    one.declare()
    carries(luod, one, generation=2)


def test_a_failure_while_luod_waits_for_the_jump_cancels_nothing(luod: Luod) -> None:
    """The kexec may still happen, so no participant is told to resume."""
    luod.stop()
    luod.start("--end-stuck-after", "0.2")
    one = Participant(luod, "one")
    jump = stopped_jump(luod, one)
    strace, calls = require_tool("strace", package="strace"), f"{luod.state_directory}/calls"
    fail = ["-e", "trace=getdents64", "-e", "inject=getdents64:error=ENFILE", "-p", str(luod.serve_pid()), "-o", calls]
    luod.machine.run(["touch", calls])
    tracer = luod.machine.spawn([strace, "-qq", *fail])
    eventually(lambda: luod.machine.read(calls).count(b"ENFILE") > 1, describe="two searches of /proc failed")
    luod.machine.signal(tracer.pid, signal.SIGTERM)
    tracer.wait()
    assert luod.status()["state"] == "jumping"
    with luod.machine.expect_jump():
        luod.machine.signal(jump, signal.SIGCONT)
    luod.start()
    assert states(start(luod)) == {"incoming one": "waiting", "incoming one#1": "waiting"}


def test_the_process_that_jumps_is_killed_before_it_did(luod: Luod) -> None:
    one = Participant(luod, "one")
    jump = stopped_jump(luod, one)
    luod.machine.signal(jump, signal.SIGKILL)
    assert "ended with" in one.expect("cancelled")["reason"]
    assert states(one.vmm) == {"outgoing one": "held"}
    carries(luod, one, generation=2)


def test_a_connection_that_broke_during_the_jump_is_followed_by_one_that_is_told_of_the_end(luod: Luod) -> None:
    one = Participant(luod, "one")
    jump = stopped_jump(luod, one)
    assert follow_again(one) == "jumping"
    luod.machine.signal(jump, signal.SIGKILL)
    told = one.expect("cancelled")
    assert told["frozen_devices"] is None
    assert states(one.vmm) == {"outgoing one": "held"}
    one.declare()
    carries(luod, one, generation=2)


def test_an_image_that_another_process_loads_after_the_last_check_is_not_started(luod: Luod) -> None:
    """H19. reboot(2) is not called, so no device has changed."""
    one = Participant(luod, "one")
    jump = stopped_jump(luod, one)
    luod.vmm().call("load", kernel=luod.machine.kernel, command_line="liveupdate=on kho=on another=1")
    luod.machine.signal(jump, signal.SIGCONT)
    told = one.expect("cancelled")
    assert "another process has loaded" in told["reason"]
    assert told["frozen_devices"] == []


def test_reboot_returns(luod: Luod) -> None:
    """Here because the loaded image is unloaded: all participants resume, and no session is marked as ready."""
    without_counted_loads(luod)
    one = Participant(luod, "one")
    operator = begin(luod)
    one.expect("preparing")
    one.vmm.call("unload")
    one.vote("preparing")
    one.expect("freezing")
    until_loaded(luod)
    one.vmm.call("unload")
    one.vote("freezing")
    one.expect("jumping")
    assert "no image is loaded" in one.expect("cancelled")["reason"]
    assert operator.until("cancelled")["reason"]
    assert luod.status()["state"] == "idle"
    carries(luod, one, generation=2)


def held_jump(luod: Luod, *arguments: str, user: int | None = None) -> str:
    """Blocks reboot(2) with a process in a session's ioctl (H17), where a tracer keeps it. Returns luod's message to
    the operator. The kexec follows once that is sent, and the process is dead if it "was ended".
    """
    luod.stop()
    luod.start("--end-stuck-after", "0.2")
    one = Participant(luod, "one")
    holder = start_vmm(luod.machine, luod.python(user), "stuck", (SOCKET, *arguments), user=user)
    assert holder.program.ask({}) == {"following": True}
    operator = begin(luod, findings=["contents-undeclared"])
    prepare(one)
    one.expect("freezing")
    luod.machine.signal(jump := started_jump(luod), signal.SIGSTOP)
    one.vote("freezing")
    pid = holder.program.ask({})["stuck"]
    progress = operator.until("jumping")
    while not progress["reason"]:
        progress = operator.until("jumping")
    told: str = progress["reason"]
    assert f"({pid})" in told
    if "was ended" in told:
        stat = f"/proc/{pid}/stat"
        eventually(lambda: b") Z " in luod.machine.read(stat), describe=f"process {pid} has ended")
    with luod.machine.expect_jump():
        luod.machine.signal(jump, signal.SIGCONT)
    return told


def test_who_said_ready_and_is_in_a_sessions_ioctl_is_ended_when_it_holds_the_jump(luod: Luod) -> None:
    assert "was ended" in held_jump(luod)


def test_a_user_that_takes_no_part_is_ended_when_it_holds_the_jump(luod: Luod) -> None:
    """However it came by the fd: else it would keep the machine between two kernels, with every guest paused."""
    assert "was ended" in held_jump(luod, "bystander", user=1000)


def test_roots_process_that_takes_no_part_is_named_when_it_holds_the_jump(luod: Luod) -> None:
    assert "is root's" in held_jump(luod, "bystander")


def test_luoctl_aborts_and_says_it_in_its_status(luod: Luod) -> None:
    one = Participant(luod, "one")
    luod.load()
    program = luod.machine.spawn(
        luod.python().module("luod.ctl.main", "--json", "update"), env=luod.python().environment
    )
    one.expect("preparing")
    other = luod.luoctl("--json", "update", check=False)
    assert (other.returncode, json.loads(other.stdout)["error"]) == (6, "UpdateRunning")
    luod.luoctl("abort")
    one.expect("cancelled")
    assert program.wait() == 5
    assert luod.luoctl("abort", check=False).returncode == 4
