"""luod adopts sessions of a real kernel, whose links are not those of an emulated machine."""

from __future__ import annotations

from tests.daemon.host import Luod, states


def test_what_only_looks_like_a_session_is_refused(luod: Luod) -> None:
    vmm = luod.vmm()
    vmm.memfd("ram")
    vmm.ask("make", kind="eventfd", slot="eventfd")
    vmm.open_device()
    for slot in ("ram", "eventfd", "device"):
        error = vmm.refused("adopt", fd=slot, slot="held")
        assert (error.kind, "is not a session" in error.message) == ("BadInput", True), slot
    vmm.ask("close", fd="device")
    vmm.create(b"a\xff", slot="own")
    error = vmm.refused("adopt", fd="own", slot="held")
    assert (error.kind, error.message.isprintable()) == ("BadInput", True)
    assert states(vmm) == {}


def test_an_adopted_session_outlives_its_program_and_is_carried_and_given_back(luod: Luod) -> None:
    """One session is adopted before the kexec, the other one after it."""
    vmm = luod.vmm()
    digests = {}
    for name in ("known", "unknown"):
        vmm.create(name.encode(), slot=name)
        digests[name] = vmm.preserved_memfd(slot=f"ram of {name}", session=name)
    vmm.call("adopt", fd="known", slot="held")
    assert states(vmm) == {"outgoing known": "held"}
    luod.load()
    luod.force_update()
    luod.start()
    vmm, keeper = luod.vmm(), luod.vmm()
    assert states(vmm) == {"incoming known": "waiting"}
    keeper.retrieve(b"unknown", slot="own")
    keeper.call("adopt", fd="own", slot="held")
    keeper.program.kill()
    assert states(vmm) == {"incoming known": "waiting", "incoming unknown": "retrieved"}
    for name, digest in digests.items():
        vmm.call("retrieve_session", name=name, slot=name)
        vmm.call("retrieve", session=name, file=1, slot=f"ram of {name}")
        assert vmm.ask("digest", fd=f"ram of {name}") == digest
        vmm.call("finish", session=name, discard=True)
    assert states(vmm) == {}
