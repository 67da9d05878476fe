"""A roll-out of unmodified Ansible on emulated hosts: it updates, it stops at the first host that fails, and it can be
repeated.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from luod.fleet.outcome import Report
from luod.testing.tools import for_root
from tests.ctl.test_fleet_lock import Server, server
from tests.fleet.rollout.conftest import Rehearse

PLAIN_USER = 1000

__all__ = ["server"]


def standings(report: Report) -> list[str]:
    return [host.standing for host in report.hosts]


def test_all_hosts_are_updated_one_at_a_time_under_the_lock_and_then_there_is_nothing_to_do(
    rehearse: Rehearse, server: Server
) -> None:
    lock = ("-e", f"live_update_lock_url={server.url}")

    report, said = rehearse(3, None, "--share-network", "--runs", "2", more=lock)

    assert (report.status, standings(report)) == (0, ["updated"] * 3)
    assert [(host.boots, host.changed, host.loaded) for host in report.hosts] == [(2, 0, False)] * 3
    for host in report.hosts:
        assert host.timeline is not None
        assert {session.outcome for session in host.timeline.sessions} == {"finished"}
        assert host.blackout is not None
        assert said.count(f"{host.name}: update {host.timeline.update} done, Linux ") == 1
        assert f"{host.name}: nothing to do, /boot/vmlinuz runs already" in said
    steps = [path.rpartition("/")[2] for path, _body in server.requests]
    assert steps == ["pre-reboot", "steady-state"] * 3
    assert len({body["client_params"]["id"] for _path, body in server.requests}) == 3
    assert server.holder == {}


def test_a_host_that_refuses_ends_the_roll_out_and_later_hosts_are_untouched(
    rehearse: Rehearse, server: Server
) -> None:
    lock = ("-e", f"live_update_lock_url={server.url}")

    report, _said = rehearse(3, {"h2": "veto"}, "--share-network", more=lock)

    assert (report.status != 0, standings(report)) == (True, ["updated", "refused", "untouched"])
    assert report.stopped_at == ("h2",)
    _one, refused, untouched = report.hosts
    assert "guest-1 vetoes: the rehearsal vetoes" in (refused.reason or "")
    assert [host.loaded for host in report.hosts] == [False] * 3, "an image that is left makes each reboot a jump"
    assert (untouched.timeline, untouched.changed) == (None, 0)
    assert server.holder == {}, "a host that runs its old kernel gives its slot back"


@pytest.mark.parametrize(
    ("fault", "standing", "seconds", "reason"),
    [
        ("panic", "lost", 20, "timed out waiting"),
        ("vmm-lost", "incomplete", 20, "waiting"),
        ("hang", "refused", 60, "guest-1"),
        ("disk-full", "refused", 60, "refused by luoctl check"),
    ],
)
def test_a_host_with_a_fault_is_named_with_its_reason_and_ends_the_roll_out(
    rehearse: Rehearse, fault: str, standing: str, seconds: int, reason: str
) -> None:
    limits = ("-e", f'{{"live_update_wait_seconds": {seconds}, "live_update_deadline": 3}}')

    report, said = rehearse(2, {"h1": fault}, more=(*limits, "-e", "live_update_attempt_seconds=5"))

    assert (report.status != 0, standings(report), report.stopped_at) == (True, [standing, "untouched"], ("h1",)), said
    assert reason in (report.hosts[0].reason or ""), report.hosts[0].reason
    assert not report.hosts[0].loaded


def test_an_update_whose_answer_is_lost_with_the_connection_is_found_and_awaited(rehearse: Rehearse) -> None:
    report, said = rehearse(1, {"h1": "slow-link"})

    assert (report.status, standings(report)) == (0, ["updated"]), said
    (host,) = report.hosts
    assert host.timeline is not None
    assert "Remember the update whose answer was lost" in said
    assert f"h1: update {host.timeline.update} done, Linux " in said


def test_a_host_that_does_not_say_whether_it_began_keeps_its_slot(
    rehearse: Rehearse, server: Server, scratch: Path
) -> None:
    silent = stand_in(scratch, "*timeline*) exit 3")
    lock = ("-e", f"live_update_lock_url={server.url}", "-e", f"live_update_luoctl={silent}")
    limits = ("-e", '{"live_update_wait_seconds": 15, "live_update_attempt_seconds": 5}')

    report, said = rehearse(1, {"h1": "slow-link"}, "--share-network", more=(*lock, *limits))

    assert report.status != 0, said
    assert report.hosts[0].boots == 2, "it is in the next kernel"
    assert "Require that luod answered" in said
    assert len(server.holder) == 1


def test_a_kernel_that_could_not_take_over_ends_the_wait_at_once(rehearse: Rehearse, scratch: Path) -> None:
    """The answer of the update is lost, so the role asks which one it was."""
    broken = stand_in(scratch, "*wait*ready*) echo 'luoctl: could not take over' >&2; exit 10")

    report, said = rehearse(1, {"h1": "slow-link"}, more=("-e", f"live_update_luoctl={broken}"))

    assert report.status != 0, said
    assert report.hosts[0].reason == "Require that luod answered: luoctl: could not take over"
    assert said.count("Wait until luod answers") == 1


def test_another_update_of_the_host_is_left_alone(rehearse: Rehearse, server: Server, scratch: Path) -> None:
    undone = scratch / "undone"
    busy = stand_in(scratch, "*load*kernel*) exit 6", f'*abort*|*unload*|*give*) echo "$*" >>{undone}; exit 4')
    lock = ("-e", f"live_update_lock_url={server.url}", "-e", f"live_update_luoctl={busy}")

    report, said = rehearse(1, None, "--share-network", more=lock)

    assert (report.status != 0, standings(report)) == (True, ["refused"]), said
    assert not undone.exists(), undone.read_text()
    assert len(server.holder) == 1


def stand_in(scratch: Path, *cases: str) -> Path:
    """Returns a luoctl that answers these cases of its arguments itself, in the language of sh."""
    program = scratch / "luoctl-stand-in"
    program.write_text(f'#!/bin/sh\ncase "$*" in {";; ".join(cases)};; esac\nexec luoctl "$@"\n')
    program.chmod(0o755)
    return program


def test_a_second_update_of_a_run_that_fails_gives_its_slot_back(
    rehearse: Rehearse, server: Server, scratch: Path
) -> None:
    refused = {"live_update_cmdline": "liveupdate=on kho=on root=/dev/old", "live_update_deadline": 1e12}
    back = {"import_playbook": "luod.host.update", "vars": refused}
    playbook = scratch / "there-and-not-back.yml"
    playbook.write_text(json.dumps([{"import_playbook": "luod.host.update"}, back]))
    lock = ("-e", f"live_update_lock_url={server.url}")

    report, said = rehearse(1, None, "--share-network", playbook=str(playbook), more=lock)

    assert report.status != 0, said
    assert report.hosts[0].boots == 2
    assert [path.rpartition("/")[2] for path, _body in server.requests] == ["pre-reboot", "steady-state"] * 2
    assert server.holder == {}


def test_a_plain_user_can_rehearse_and_a_playbook_that_is_missing_is_said_before_hosts_are_started(
    rehearse: Rehearse,
) -> None:
    for_root("to become a plain user")

    report, _said = rehearse(1, user=PLAIN_USER)

    assert (report.status, standings(report)) == (0, ["updated"])
    with pytest.raises(AssertionError, match="could not be found"):
        rehearse(1, playbook="nothing.yml")


def test_check_mode_changes_nothing_and_says_what_would_be_done(rehearse: Rehearse) -> None:
    report, said = rehearse(2, {"h2": "disk-full"}, more=("--check",))

    assert (report.status, standings(report)) == (0, ["unchanged"] * 2)
    assert [(host.boots, host.loaded, host.timeline) for host in report.hosts] == [(1, False, None)] * 2
    assert [host.changed for host in report.hosts] == [1, 0]
    assert "h1: would load /boot/vmlinuz and update into it" in said
    assert "2 sessions of 2 participants, 2.00 MB" in said
    assert "refused by luoctl check: " in said


def test_a_host_goes_back_by_another_update_with_its_guests(rehearse: Rehearse, scratch: Path) -> None:
    command_line = "liveupdate=on kho=on root=/dev/old"
    back = {"import_playbook": "luod.host.update", "vars": {"live_update_cmdline": command_line}}
    playbook = scratch / "there-and-back.yml"
    playbook.write_text(json.dumps([{"import_playbook": "luod.host.update"}, back]))

    report, said = rehearse(1, playbook=str(playbook))

    assert (report.status, standings(report)) == (0, ["updated"]), said
    (host,) = report.hosts
    assert host.boots == 3
    assert host.timeline is not None
    assert {session.outcome for session in host.timeline.sessions} == {"finished"}
    assert len(re.findall(r"h1: update \w+ done, Linux .*; 2 of 2 sessions carried", said)) == 2
