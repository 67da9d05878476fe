"""An update without a connection of the operator: what it is told, and what then happens by itself."""

from __future__ import annotations

import signal

from luod.testing import eventually
from tests.daemon.host import Luod
from tests.daemon.participant import Operator, Participant, prepare, start


def detached(luod: Luod) -> Operator:
    """Requests an update that does not depend on the connection. The image is loaded."""
    luod.load()
    operator = Operator(luod)
    operator.update(detach=True)
    return operator


def ends(luod: Luod, update: str) -> int:
    """Waits for the end of the update as a script does, and returns the exit status."""
    return luod.luoctl("wait", "--update", update, "--timeout", "60", check=False).returncode


def test_the_last_reply_comes_while_guests_run_and_the_update_does_not_need_its_reader(luod: Luod) -> None:
    one = Participant(luod, "one")
    operator = detached(luod)
    prepare(one)

    last = operator.until("prepared")
    over = operator.next()
    luod.machine.signal(operator.vmm.program.pid, signal.SIGKILL)
    one.expect("freezing")
    with luod.machine.expect_jump():
        one.vote("freezing")
    luod.start()
    vmm = start(luod)
    vmm.call("retrieve_session", name="one", slot="s")
    vmm.call("retrieve", session="s", file=1, slot="file")
    vmm.call("finish", session="s")

    assert over is None
    assert ends(luod, last["update"]) == 0


def test_a_veto_in_freezing_is_found_by_the_id(luod: Luod) -> None:
    one = Participant(luod, "one")
    operator = detached(luod)
    prepare(one)
    last = operator.until("prepared")
    one.expect("freezing")
    one.vote("freezing", "veto", "a device would not stop")

    one.expect("cancelled")

    assert ends(luod, last["update"]) == 5
    assert "a device would not stop" in luod.luoctl("timeline").text


def test_a_veto_in_preparing_comes_before_the_reply_as_without(luod: Luod) -> None:
    one = Participant(luod, "one")
    operator = detached(luod)
    one.expect("preparing")

    one.vote("preparing", "veto", "a backup is running")

    assert operator.until("cancelled")["reason"] == "one vetoes: a backup is running"
    assert operator.next() is None


def test_a_connection_that_ends_before_that_reply_cancels(luod: Luod) -> None:
    one = Participant(luod, "one")
    operator = detached(luod)
    one.expect("preparing")

    luod.machine.signal(operator.vmm.program.pid, signal.SIGKILL)

    assert one.expect("cancelled")["reason"] == "the connection of luoctl update was closed"


def test_it_can_be_aborted_before_guests_are_frozen(luod: Luod) -> None:
    one = Participant(luod, "one")
    operator = detached(luod)
    prepare(one)
    last = operator.until("prepared")

    luod.luoctl("abort")

    one.expect("cancelled")
    assert ends(luod, last["update"]) == 5


def test_luoctl_prints_the_id_and_ends(luod: Luod) -> None:
    luod.load()
    with luod.machine.expect_jump():
        said = luod.answers("update", "--detach")
    luod.start()

    assert [each["state"] for each in said][-1] == "prepared"
    assert said[-1]["status"] == 0
    eventually(lambda: ends(luod, said[-1]["update"]) == 0, describe="the update is done")
