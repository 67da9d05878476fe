"""`luoctl show` shows what a session carries, and takes nothing out of the kernel to see it."""

from __future__ import annotations

from typing import Any

from luod.testing.tools import for_root
from tests.daemon.host import Luod, states


def show(luod: Luod, name: str = "vm") -> dict[str, Any]:
    found: dict[str, Any] = luod.luoctl_json("show", name)
    return found


def test_what_a_session_carries_on_both_sides_of_the_jump(luod: Luod) -> None:
    vmm = luod.vmm()
    vmm.call("create", name="vm", slot="s")
    assert show(luod)["files"] == []
    vmm.memfd("ram", size=1 << 20, seed=1)
    token = vmm.call("preserve", session="s", file="ram", name="ram")
    ram = {
        "token": token,
        "token_str": str(token),
        "name": "ram",
        "kind": "memfd",
        "size": 1 << 20,
        "allocated": 1 << 20,
        "device": None,
    }
    outgoing = show(luod)
    assert (outgoing["direction"], outgoing["state"], outgoing["note"]) == ("outgoing", "held", None)
    assert [file | ram for file in outgoing["files"]] == outgoing["files"]
    luod.kill_serve()
    assert show(luod)["files"] == outgoing["files"]
    vmm.program.kill()
    assert show(luod)["files"] == outgoing["files"]
    assert "ram" in luod.luoctl("show", "vm").text
    luod.jump()

    waiting = show(luod)
    assert (waiting["state"], waiting["files"]) == ("waiting", None)
    assert "waits in the kernel" in waiting["note"]
    vmm = luod.vmm()
    assert states(vmm) == {"incoming vm": "waiting"}
    vmm.call("retrieve_session", name="vm", slot="s")
    assert show(luod)["files"] == outgoing["files"]
    vmm.call("retrieve", session="s", file="ram", slot="ram")
    vmm.call("finish", session="s")
    gone = luod.luoctl("show", "vm", check=False)
    assert gone.returncode == 7
    assert "there is no session 'vm'" in gone.stderr.decode()
    assert "of yours" not in gone.stderr.decode()


def test_a_replaced_session_shows_what_it_holds_now(luod: Luod) -> None:
    vmm = luod.vmm()
    vmm.call("create", name="vm", slot="s")
    for token in (1, 2):
        vmm.memfd(f"m{token}", seed=token)
        vmm.call("preserve", session="s", file=f"m{token}", token=token)
    vmm.call("replace", session="s", files={"1": "m1"}, drop=[2])
    assert [file["token"] for file in show(luod)["files"]] == [1]


def test_a_session_without_a_manifest_says_so(luod: Luod) -> None:
    vmm = luod.vmm()
    vmm.call("create", name="vm", slot="s", manifest=False)
    assert vmm.refused("manifest", name="vm").kind == "NoManifest"
    assert show(luod)["note"].startswith("luod was given no manifest of session 'vm'")


def test_more_files_than_one_part_names(luod: Luod) -> None:
    vmm = luod.vmm()
    vmm.call("create", name="vm", slot="s")
    vmm.call("preserve_many", session="s", count=700)
    found = show(luod)
    assert 500 < len(found["files"]) < 700
    assert "there are more" in found["note"]


def test_somebody_elses_session_is_no_session(luod: Luod) -> None:
    for_root("for several users in one machine")
    vmm, other = luod.vmm(1000), luod.vmm(1001)
    vmm.call("create", name="vm", slot="s")
    assert other.refused("manifest", name="vm").kind == "NoSuchSession"
    assert vmm.call("manifest", name="vm") == [[], True]
    assert show(luod)["owner"] == 1000
