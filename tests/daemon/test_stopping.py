"""`luoctl stop`, and luod's log on SIGTERM, name the sessions and files that end with luod."""

from __future__ import annotations

from typing import Any

from luod.testing import eventually
from tests.daemon.host import Luod, states


def test_a_stop_is_refused_while_only_luod_has_sessions_or_files_and_names_them(luod: Luod) -> None:
    vmm, dead = luod.vmm(), luod.vmm()
    vmm.call("create", name="its-own", slot="s")
    vmm.memfd("ram")
    vmm.call("stash", name="set", files={"ram": "ram"})
    dead.call("create", name="left", slot="s")
    dead.memfd("more")
    dead.call("stash", name="handed", files={"ram": "more"})
    dead.program.kill()

    def one_left() -> dict[str, Any] | None:
        answer = luod.answer("stop")
        return answer if answer["message"].count("session") <= 1 else None

    answer = eventually(one_left, describe="the last fds of the dead VMM are closed")
    assert (answer["status"], answer["error"]) == (4, "Refused")
    assert "outgoing session left" in answer["message"]
    assert "file ram of handed" in answer["message"]
    assert "its-own" not in answer["message"]
    assert "file ram of set" not in answer["message"]
    assert "--drop" in answer["hint"]
    # Nothing has changed, and luod goes on.
    assert states(vmm) == {"outgoing its-own": "held", "outgoing left": "held"}
    vmm.call("create", name="more", slot="more")
    answer = luod.answer("stop", "--drop")
    assert (answer["status"], sorted(answer["lost"])) == (0, ["file ram of handed", "outgoing session left"])
    assert luod.luoctl("status", check=False).returncode == 3


def test_a_stop_loses_nothing_of_what_waits_and_of_what_clients_have(luod: Luod) -> None:
    before = luod.vmm()
    for name in ("waits", "had"):
        before.call("create", name=name, slot=name)
        before.memfd(f"ram {name}")
        before.call("preserve", session=name, file=f"ram {name}", token=1)
    luod.jump()
    vmm = luod.vmm()
    vmm.call("retrieve_session", name="had", slot="had")
    answer = luod.answer("stop")
    assert (answer["status"], answer["lost"]) == (0, [])
    luod.stop()
    luod.start()
    assert states(vmm) == {"incoming had": "retrieved", "incoming waits": "waiting"}
    vmm.call("retrieve", session="had", file=1, slot="ram")


def test_a_luod_that_is_terminated_names_each_session_that_is_lost_with_it(luod: Luod) -> None:
    before = luod.vmm()
    for name in ("waits", "had", "left"):
        before.call("create", name=name, slot=name)
    luod.jump()
    vmm, dead = luod.vmm(), luod.vmm()
    vmm.call("retrieve_session", name="had", slot="had")
    dead.call("retrieve_session", name="left", slot="left")
    vmm.call("create", name="new-had", slot="new-had")
    dead.call("create", name="new-left", slot="new-left")
    dead.program.kill()
    log = luod.terminate()
    lost = [line for line in log.splitlines() if " session-lost " in line]
    assert all(" warning supervisor " in line for line in lost)
    assert sorted(line.partition("name=")[2].split()[0] for line in lost) == ["left", "new-left"]
