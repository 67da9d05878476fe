"""The operator's commands before and after an update: what they are told, what they can stop, when they are owed."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from luod.testing import Machine, eventually
from luod.testing.plugin import BootMachine
from luod.testing.tools import require_tool
from tests.daemon.host import Luod, until_traced
from tests.daemon.participant import Operator, Participant, preserve_device
from tests.devices import boot
from tests.library import Vmm, start_vmm

Start = Callable[..., Luod]

TELL = 'echo "$LUOD_HOOK ${LUOD_OUTCOME-none} $LUOD_GENERATION $LUOD_UPDATE $1" >>%s/ran'
"""The default script of a hook in these tests: it adds a line to the file `ran`."""


@pytest.fixture
def begin(machine: Machine, tmp_path: Path) -> Start:
    """Starts luod with these shell scripts as hooks, "" for no hook, and loads a kernel."""

    def begin(
        before: str = TELL, after: str = TELL, *, more: str = "", timeout: float = 60, on: Machine = machine
    ) -> Luod:
        hooks = []
        for name, script in (("before-update", before), ("after-update", after)):
            if script:
                file = tmp_path / name
                file.write_text(f"#!/bin/sh\n{script.replace('%s', str(tmp_path))}\n")
                file.chmod(0o755)
                hooks.append(f'{name} = ["{file}", "argument"]')
        policy = tmp_path / "luod.toml"
        policy.write_text("\n".join([more, "[hooks]", *hooks, f"timeout = {timeout}", ""]))
        luod = Luod(on, state_directory=tmp_path / "state")
        luod.start("--config", str(policy))
        luod.load()
        return luod

    return begin


def again(luod: Luod, tmp_path: Path) -> None:
    luod.start("--config", str(tmp_path / "luod.toml"))


def ran(tmp_path: Path) -> list[list[str]]:
    file = tmp_path / "ran"
    return [line.split() for line in file.read_text().splitlines()] if file.exists() else []


def wait_for(tmp_path: Path, lines: int) -> list[list[str]]:
    def look() -> list[list[str]] | None:
        found = ran(tmp_path)
        return found if len(found) >= lines else None

    return eventually(look, describe=f"hooks ran {lines} times")


def update(luod: Luod) -> dict[str, Any]:
    """Tries an update that does not take place. Returns the last object that luoctl prints."""
    return luod.answer("update", "--ignore-finding=contents-undeclared")


def until_gone(luod: Luod, pid: str) -> None:
    eventually(lambda: not luod.machine.signal(int(pid), 0), describe=f"process {pid} is gone")


def vm(luod: Luod) -> None:
    vmm = luod.vmm()
    vmm.call("create", name="vm", slot="s")
    vmm.memfd("ram")
    vmm.call("preserve", session="s", file="ram", token=1)


def restore(vmm: Vmm) -> None:
    """Restores the session of `vm` after a kexec."""
    vmm.call("retrieve_session", name="vm", slot="s")
    vmm.call("retrieve", session="s", file=1, slot="ram")
    vmm.call("finish", session="s")


def test_both_run_around_an_update_the_second_once_all_is_restored(begin: Start, tmp_path: Path) -> None:
    luod = begin()
    vm(luod)
    luod.force_update()
    ((*before, id, argument),) = ran(tmp_path)
    assert (before, argument) == (["before-update", "none", "1"], "argument")
    again(luod, tmp_path)
    vmm = luod.vmm()
    vmm.call("retrieve_session", name="vm", slot="s")
    vmm.call("retrieve", session="s", file=1, slot="ram")
    assert luod.status()["state"] == "restoring"
    assert len(ran(tmp_path)) == 1
    vmm.call("finish", session="s")
    assert wait_for(tmp_path, 2)[1] == ["after-update", "done", "1", id, "argument"]


def test_past_the_restore_deadline_the_second_runs_whatever_is_left(begin: Start, tmp_path: Path) -> None:
    luod = begin(more="restore-deadline = 0.2")
    vm(luod)
    luod.force_update()
    policy = tmp_path / "luod.toml"
    # A reaper that hangs keeps the session there.
    policy.write_text('reaper = ["/bin/sleep", "1000"]\n' + policy.read_text())
    again(luod, tmp_path)
    assert wait_for(tmp_path, 2)[1][:2] == ["after-update", "done"]
    assert luod.status()["state"] == "restoring"


def test_what_is_owed_survives_a_serve_that_is_killed_after_the_jump(begin: Start, tmp_path: Path) -> None:
    luod = begin()
    vm(luod)
    luod.force_update()
    again(luod, tmp_path)
    luod.kill_serve()
    vmm = luod.vmm()
    vmm.call("retrieve_session", name="vm", slot="s")
    luod.kill_serve()
    vmm.call("finish", session="s", discard=True)
    assert wait_for(tmp_path, 2)[1][:2] == ["after-update", "done"]
    assert luod.status()["state"] == "idle"


def test_killed_while_the_second_runs_it_is_ended_and_runs_again(begin: Start, tmp_path: Path) -> None:
    luod = begin(after=TELL + "\necho $$ >>%s/pid\n[ $(wc -l <%s/ran) -gt 2 ] || exec sleep 1000")
    luod.force_update()
    again(luod, tmp_path)
    wait_for(tmp_path, 2)
    eventually((tmp_path / "pid").exists, describe="the second hook runs")
    luod.kill_serve()
    (_before, first, second) = wait_for(tmp_path, 3)
    assert first == second
    pid = (tmp_path / "pid").read_text().split()[0]
    until_gone(luod, pid)


def test_a_first_that_says_no_refuses_the_update_and_nobody_was_asked(begin: Start, tmp_path: Path) -> None:
    luod = begin(before="[ -e %s/free ] && exit 0\necho the lock is taken >&2\necho by host 7 >&2\nexit 3")
    one = Participant(luod, "one")
    refused = update(luod)
    assert (refused["status"], refused["error"]) == (4, "Refused")
    assert refused["message"].endswith("before-update, refuses the update: the lock is taken")
    luod.kill_serve()
    assert luod.status()["state"] == "idle"
    # A refused update needs no after-update hook, not even in a restarted serve.
    assert ran(tmp_path) == []
    (tmp_path / "free").touch()
    one.follow()
    one.declare()
    Operator(luod).update()
    assert one.expect("preparing")["generation"] == 1


def test_a_first_that_is_not_there_refuses_the_update(begin: Start, tmp_path: Path) -> None:
    luod = begin()
    (tmp_path / "before-update").unlink()
    assert "before-update: No such file or directory" in update(luod)["message"]
    assert ran(tmp_path) == []


def test_a_first_that_hangs_is_ended_and_the_second_runs(begin: Start, tmp_path: Path) -> None:
    """It may have taken it; luod cannot know."""
    luod = begin(before="exec sleep 1000", timeout=0.5)
    refused = update(luod)
    assert refused["status"] == 4
    assert refused["message"].endswith("it took longer than 0.5 s, and was ended")
    assert wait_for(tmp_path, 1)[0][:3] == ["after-update", "cancelled", "1"]


def test_an_abort_ends_the_first_with_all_its_processes(begin: Start, tmp_path: Path) -> None:
    luod = begin(before=f"sleep 1000 & echo $! >%s/child\n{TELL}\nwait")
    operator = Operator(luod)
    operator.update()
    wait_for(tmp_path, 1)
    Operator(luod).abort()
    assert operator.until("cancelled")["reason"] == "the operator aborted it"
    assert wait_for(tmp_path, 2)[1][:2] == ["after-update", "cancelled"]
    until_gone(luod, (tmp_path / "child").read_text().strip())


def test_killed_while_the_first_runs_the_update_is_cancelled_and_the_second_runs(begin: Start, tmp_path: Path) -> None:
    luod = begin(before=TELL + "\nexec sleep 1000")
    Operator(luod).update()
    wait_for(tmp_path, 1)
    luod.kill_serve()
    assert wait_for(tmp_path, 2)[1][:2] == ["after-update", "cancelled"]
    assert luod.status()["state"] == "idle"


def test_a_cancelled_update_runs_the_second_at_once_and_a_later_one_both(begin: Start, tmp_path: Path) -> None:
    luod = begin()
    one = Participant(luod, "one")
    operator = Operator(luod)
    operator.update()
    one.expect("preparing")
    one.vote("preparing", "veto", "no")
    operator.until("cancelled")
    before, after = wait_for(tmp_path, 2)
    assert (before[:2], after[:2]) == (["before-update", "none"], ["after-update", "cancelled"])
    assert before[2:] == after[2:]
    one.vmm.program.kill()
    with luod.machine.expect_jump():
        luod.luoctl("update", "--skip-unready")
    again(luod, tmp_path)
    assert [line[:3] for line in ran(tmp_path)[2:]] == [["before-update", "none", "2"]]


def test_without_hooks_in_the_policy_nothing_is_owed(begin: Start, tmp_path: Path) -> None:
    luod = begin(before="", after="")
    luod.force_update()
    again(luod, tmp_path)
    assert luod.status()["state"] == "idle"
    assert ran(tmp_path) == []


def test_a_dry_run_and_a_refused_update_run_neither(begin: Start, tmp_path: Path) -> None:
    luod = begin()
    vm(luod)
    luod.luoctl("update", "--dry-run", check=False)
    assert luod.luoctl("update", check=False).returncode == 4
    assert ran(tmp_path) == []


def test_a_second_that_fails_is_in_the_log_and_in_nobodys_way(begin: Start, tmp_path: Path) -> None:
    luod = begin(after=TELL + "\necho no hands >&2; exit 1")
    luod.force_update()
    again(luod, tmp_path)
    wait_for(tmp_path, 2)
    luod.load()
    luod.force_update()
    assert [line[0] for line in ran(tmp_path)] == ["before-update", "after-update", "before-update"]


def test_what_is_owed_is_on_the_disk_before_the_first_begins(begin: Start, tmp_path: Path) -> None:
    luod = begin(before="exit 1")
    strace, serve = require_tool("strace", package="strace"), luod.serve_pid()
    trace = tmp_path / "trace"
    tracer = luod.machine.spawn([strace, "-f", "-qq", "-e", "trace=fsync,execve", "-o", str(trace), "-p", str(serve)])
    until_traced(luod, serve)
    assert update(luod)["status"] == 4
    luod.machine.signal(tracer.pid, signal.SIGTERM)
    tracer.wait()
    before, hook, _after = trace.read_text().partition("luod.daemon.processes.gate")
    assert hook
    # The file, and the directory that it is in.
    assert before.count("fsync(") >= 2, before


def test_killed_altogether_after_the_jump_it_is_owed_still(begin: Start, tmp_path: Path) -> None:
    luod = begin()
    vm(luod)
    luod.force_update()
    again(luod, tmp_path)
    luod.kill_both()
    luod.stop()
    again(luod, tmp_path)
    assert len(ran(tmp_path)) == 1
    restore(luod.vmm())
    assert wait_for(tmp_path, 2)[1][:3] == ["after-update", "done", "1"]


def test_killed_with_the_registry_in_its_hands_it_is_owed_by_the_file(begin: Start, tmp_path: Path) -> None:
    luod = begin()
    vm(luod)
    luod.force_update()
    thief = start_vmm(luod.machine, luod.python())
    thief.call("retrieve_session", name="luod", slot="s")
    thief.program.kill()
    again(luod, tmp_path)
    assert len(ran(tmp_path)) == 1
    restore(luod.vmm())
    assert wait_for(tmp_path, 2)[1][:3] == ["after-update", "done", "1"]


def test_a_jump_that_luod_did_not_make_ends_the_update_as_cancelled(begin: Start, tmp_path: Path) -> None:
    luod = begin()
    one = Participant(luod, "one")
    Operator(luod).update()
    one.expect("preparing")
    with luod.machine.expect_jump():
        one.vmm.ask("library", call="jump")
    again(luod, tmp_path)
    assert wait_for(tmp_path, 2)[1][:3] == ["after-update", "cancelled", "1"]


def test_a_power_cut_while_the_first_runs_ends_the_update_as_cancelled(
    begin: Start, boot_machine: BootMachine, tmp_path: Path
) -> None:
    luod = begin(before=TELL + "\nexec sleep 1000")
    Operator(luod).update()
    wait_for(tmp_path, 1)
    luod.machine.close()
    luod = Luod(boot_machine(), state_directory=tmp_path / "state")
    again(luod, tmp_path)
    assert wait_for(tmp_path, 2)[1][:3] == ["after-update", "cancelled", "1"]


def test_a_kernel_that_could_take_nothing_over_is_broken_and_keeps_nobody_waiting(
    begin: Start, boot_machine: BootMachine, tmp_path: Path
) -> None:
    luod = begin(on=boot(boot_machine))
    preserve_device(luod)
    luod.load(f"{luod.machine.kernel}-no-vfio")
    luod.update(ignore=["contents-undeclared", "handler-missing"])
    again(luod, tmp_path)
    assert luod.status()["state"] == "broken"
    assert wait_for(tmp_path, 2)[1][:3] == ["after-update", "broken", "1"]
