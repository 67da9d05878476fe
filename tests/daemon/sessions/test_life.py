"""The life of sessions through updates, as luod sees it."""

from __future__ import annotations

from tests.daemon.host import Luod, states, until_complete


def test_two_updates_in_a_row_with_the_same_name_and_new_memory(luod: Luod) -> None:
    vmm = luod.vmm()
    vmm.call("create", name="vm", slot="s")
    digest = vmm.memfd("ram", seed=1)
    vmm.call("preserve", session="s", file="ram", token=1)
    for boot in (1, 2):
        assert luod.status()["boot"] == boot
        luod.jump()
        vmm = luod.vmm()
        vmm.call("retrieve_session", name="vm", slot="old")
        vmm.call("retrieve", session="old", file=1, slot="ram")
        assert vmm.ask("digest", fd="ram") == digest
        vmm.call("finish", session="old")
        vmm.call("create", name="vm", slot="s")
        digest = vmm.memfd("next", seed=boot + 1)
        vmm.call("preserve", session="s", file="next", token=1)
    assert luod.status()["boot"] == 3
    assert states(vmm) == {"outgoing vm": "held"}


def test_a_session_waits_in_the_kernel_until_it_is_claimed(luod: Luod) -> None:
    vmm = luod.vmm()
    for name in ("a", "b"):
        vmm.call("create", name=name, slot=name, manifest=False)
    held = len(luod.links(luod.supervisor_pid))
    luod.jump()
    until_complete(luod)
    assert len(luod.links(luod.supervisor_pid)) == held - 2
    vmm = luod.vmm()
    vmm.call("retrieve_session", name="a", slot="a")
    assert states(vmm) == {"incoming a": "retrieved", "incoming b": "waiting"}
    assert len(luod.links(luod.supervisor_pid)) == held - 1


def test_a_session_lives_on_when_its_program_is_killed(luod: Luod) -> None:
    vmm = luod.vmm()
    vmm.call("create", name="vm", slot="s")
    digest = vmm.memfd("ram", seed=3)
    vmm.call("preserve", session="s", file="ram", token=1)
    vmm.program.kill()
    luod.jump()
    for _ in range(2):
        vmm = luod.vmm()
        vmm.call("retrieve_session", name="vm", slot="s")
        vmm.call("retrieve", session="s", file=1, slot="ram")
        assert vmm.ask("digest", fd="ram") == digest
        vmm.program.kill()


def test_what_is_given_up_is_gone(luod: Luod) -> None:
    vmm = luod.vmm()
    for name in ("waiting", "retrieved"):
        vmm.call("create", name=name, slot=name)
        vmm.memfd(f"ram {name}")
        vmm.call("preserve", session=name, file=f"ram {name}", token=1)
    luod.jump()
    vmm = luod.vmm()
    vmm.call("retrieve_session", name="retrieved", slot="s")
    vmm.call("release", session="s")
    vmm.call("release_named", name="waiting", direction="incoming")
    assert states(vmm) == {}
    assert [vmm.can_retrieve(name) for name in (b"waiting", b"retrieved")] == ["ENOENT", "ENOENT"]


def test_a_session_finished_by_closing_it_is_no_obstacle(luod: Luod) -> None:
    """A process took it without luod, and closed it."""
    vmm = luod.vmm()
    vmm.call("create", name="vm", slot="s")
    luod.jump()
    vmm = luod.vmm()
    vmm.retrieve(b"vm")
    vmm.ask("close", fd="s")
    assert states(vmm) == {"incoming vm": "waiting"}
    assert vmm.refused("retrieve_session", name="vm", slot="s").kind == "NoSuchSession"
    assert states(vmm) == {}


def test_no_update_while_incoming_sessions_are_not_finished(luod: Luod) -> None:
    vmm = luod.vmm()
    vmm.call("create", name="vm", slot="s")
    luod.jump()
    luod.load()
    refused = luod.luoctl("update", check=False)
    assert refused.returncode == 4
    assert b"vm" in refused.stderr
    vmm = luod.vmm()
    vmm.call("create", name="new", slot="s")
    vmm.call("release_named", name="vm", direction="incoming")
    luod.force_update()


def test_no_update_without_an_image_loaded_through_luod(luod: Luod) -> None:
    """An image that another program loaded does not count: luod cannot know how it was loaded."""
    vmm = luod.vmm()
    vmm.call("load", kernel=luod.machine.kernel, command_line="liveupdate=on kho=on")
    assert luod.machine.read("/sys/kernel/kexec_loaded").strip() == b"1"
    refused = luod.luoctl("update", check=False)
    assert refused.returncode != 0
    assert not luod.status()["kernel_loaded"]
    assert luod.status()["state"] == "idle"


def test_luod_jumps_into_the_image_it_loaded_whatever_was_loaded_since(luod: Luod) -> None:
    luod.luoctl("load", "--kernel", luod.machine.kernel, "--cmdline", "liveupdate=on kho=on luod=1")
    luod.vmm().call("load", kernel=luod.machine.kernel, command_line="liveupdate=on kho=on other=1")
    luod.force_update()
    assert b"luod=1" in luod.machine.read("/proc/cmdline")


def test_what_is_no_kernel_leaves_the_one_that_is_loaded(luod: Luod) -> None:
    luod.load()
    before = luod.status()
    refused = luod.luoctl("load", "--kernel", "/bin/sh", "--cmdline", "", check=False)
    assert refused.returncode != 0
    assert luod.status() == before
    luod.force_update()


def test_an_update_the_kernel_refuses_leaves_everything_as_it_was(luod: Luod) -> None:
    """Here by an image that was overwritten since it was loaded: luod loads it again before it jumps."""
    image = "/run/image"
    contents = luod.machine.read(luod.machine.kernel)
    luod.machine.write(image, contents)
    vmm = luod.vmm()
    vmm.call("create", name="vm", slot="s")
    luod.load(image)
    luod.machine.write(image, b"no kernel any more")
    refused = luod.luoctl("update", check=False)
    assert refused.returncode == 4
    assert states(vmm) == {"outgoing vm": "held"}
    assert luod.status()["state"] == "idle"
    vmm.call("create", name="more", slot="t")
    luod.machine.write(image, contents)
    luod.force_update()
