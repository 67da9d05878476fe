"""H6, H9, H10, H11: the holders of a session, and its fate when a holder ends, releases it or keeps a duplicate.

Each is shown by raw calls on sessions of a process's own, and then on sessions from luod.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.daemon.host import Luod, states
from tests.kernel.booting import booted
from tests.library import Vmm

NAMES = ("h6", "h10", "h11")
"""Carried sessions, each as one of luod's, and as a raw one with " raw" appended to its name."""
SIZE = 1 << 20


@dataclass(frozen=True)
class Landed:
    """A host after a kexec, with the sha256 of each session's memfd, token 1."""

    luod: Luod
    digests: dict[str, str]

    def vmm(self) -> Vmm:
        return self.luod.vmm()


@pytest.fixture(scope="module")
def landed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Landed]:
    """Returns sessions of luod and raw ones, carried over one kexec by luod."""
    with booted(tmp_path_factory) as machine:
        luod = Luod(machine, tmp_path_factory.mktemp("state"))
        luod.start()
        vmm = luod.vmm()
        digests = {}
        for number, name in enumerate(NAMES):
            vmm.call("create", name=name, slot=name)
            digests[name] = vmm.memfd(f"ram of {name}", size=SIZE, seed=number)
            vmm.call("preserve", session=name, file=f"ram of {name}", token=1, name="ram")
            raw = f"{name} raw"
            vmm.create(raw.encode(), slot=raw)
            digests[raw] = vmm.preserved_memfd(size=SIZE, slot=f"ram of {raw}", session=raw)
        luod.jump()
        yield Landed(luod, digests)


def test_h06_the_death_of_the_only_holder_ends_a_session(landed: Landed) -> None:
    holder, other = landed.vmm(), landed.vmm()
    holder.retrieve(b"h6 raw", slot="s")
    assert other.can_retrieve(b"h6 raw") == "EINVAL"
    holder.program.kill()
    assert other.can_retrieve(b"h6 raw") == "ENOENT"


def test_h06_luod_holds_on_when_the_vmm_dies_and_when_its_own_server_does(landed: Landed) -> None:
    # It is not retrieved: it waits in the kernel, where no process can lose it.
    vmm = landed.vmm()
    assert states(vmm)["incoming h6"] == "waiting"
    for _ in range(2):
        vmm.call("retrieve_session", name="h6", slot="s")
        vmm.program.kill()
        landed.luod.kill_serve()
        vmm = landed.vmm()
    vmm.call("retrieve_session", name="h6", slot="s")
    vmm.call("retrieve", session="s", file="ram", slot="ram")
    assert vmm.ask("digest", fd="ram") == landed.digests["h6"]
    vmm.call("finish", session="s")
    assert "incoming h6" not in states(vmm)


def test_h09_a_duplicate_keeps_name_and_files(landed: Landed) -> None:
    vmm = landed.vmm()
    vmm.create(b"h9 raw", slot="s")
    vmm.preserved_memfd()
    vmm.fork_vmm("keeper")
    vmm.ask("close", fd="s")
    vmm.open_device()
    assert vmm.says("create", device="device", name=b"h9 raw", slot="again") == "EEXIST"
    vmm.ask("create", device="device", name=b"h9 other", slot="other")
    assert vmm.says("preserve", session="other", fd="m", token=1) == "EBUSY"
    vmm.ask("end", kid="keeper", number=signal.SIGKILL)
    vmm.ask("create", device="device", name=b"h9 raw", slot="again")
    vmm.ask("preserve", session="again", fd="m", token=1)
    vmm.ask("close", fd="device")


def test_h09_luod_drops_every_copy_of_what_is_replaced_or_released(landed: Landed) -> None:
    vmm = landed.vmm()
    vmm.call("create", name="h9", slot="s")
    for token, file in enumerate(("ram", "old")):
        vmm.memfd(file)
        vmm.call("preserve", session="s", file=file, token=token, name=file)
    vmm.call("replace", session="s", files={"0": "ram"}, drop=[1])
    # Out of the session, it can be preserved elsewhere.
    vmm.call("create", name="h9-other", slot="other")
    vmm.call("preserve", session="other", file="old", token=1)
    vmm.call("release", session="s")
    vmm.call("preserve", session="other", file="ram", token=2)
    vmm.call("create", name="h9", slot="again")
    vmm.call("release", session="again")
    vmm.call("release", session="other")


def test_h10_a_holder_of_a_duplicate_can_tell_that_the_session_is_finished(landed: Landed) -> None:
    vmm, other = landed.vmm(), landed.vmm()
    vmm.retrieve(b"h10 raw", slot="s")
    keeper = vmm.fork_vmm("keeper")
    vmm.ask("retrieve_fd", session="s", token=1, slot="ram")
    vmm.ask("finish", session="s")
    vmm.ask("close", fd="s")
    # Its name exists, and no other user gets it, as before.
    assert keeper.ask("get_name", session="s").rstrip("\0") == "h10 raw"
    assert other.can_retrieve(b"h10 raw") == "EINVAL"
    # But for a token that was preserved, the kernel answers that it does not exist.
    assert keeper.says("retrieve_fd", session="s", token=1, slot="x") == "ENOENT"
    keeper.call("wrap_incoming", fd="s", slot="i")
    assert keeper.call("holds", session="i", token=1) is False


def test_h10_luod_asks_before_it_believes_that_a_session_is_finished(landed: Landed) -> None:
    vmm = landed.vmm()
    vmm.call("retrieve_session", name="h10", slot="s")
    vmm.call("retrieve", session="s", file="ram", slot="ram")
    assert "is not finished" in vmm.refused("release_named", name="h10", direction="incoming", finished=True).message
    assert states(vmm)["incoming h10"] == "retrieved"
    vmm.call("retrieve_session", name="h10", slot="again")
    vmm.call("retrieve", session="again", file="ram", slot="ram again")
    vmm.call("finish_without_luod", session="again")
    vmm.call("finish", session="again")
    assert "incoming h10" not in states(vmm)
    assert vmm.ask("digest", fd="ram") == landed.digests["h10"]


def test_h11_a_preserved_memfd_can_be_rewritten_and_nothing_else(landed: Landed) -> None:
    vmm = landed.vmm()
    vmm.create(b"h11 again", slot="s")
    vmm.preserved_memfd()
    assert vmm.ask("pwrite", fd="m", data="new", offset=0) == 3
    assert vmm.says("pwrite", fd="m", data="new", offset=4095) == "EPERM"
    assert vmm.says("ftruncate", fd="m", size=0) == "EPERM"
    # An incoming file cannot be preserved again before FINISH, and can be then.
    vmm.retrieve(b"h11 raw", slot="in")
    vmm.ask("retrieve_fd", session="in", token=1, slot="ram")
    assert vmm.says("preserve", session="s", fd="ram", token=2) == "EBUSY"
    vmm.ask("finish", session="in")
    vmm.ask("preserve", session="s", fd="ram", token=2)


def test_h11_the_library_says_which_of_it_and_luods_registry_needs_none_of_it(landed: Landed) -> None:
    # luod's registry was carried into this boot, and is written again all along.
    vmm = landed.vmm()
    vmm.call("retrieve_session", name="h11", slot="in")
    vmm.call("retrieve", session="in", file="ram", slot="ram")
    vmm.call("create", name="h11", slot="out")
    error = vmm.refused("preserve", session="out", file="ram", token=1, name="ram")
    assert (error.kind, error.errno) == ("FileAlreadyPreserved", "EBUSY")
    assert states(vmm)["incoming h11"] == "retrieved"
    assert states(vmm)["outgoing h11"] == "held"
    vmm.call("finish", session="in")
    vmm.call("preserve", session="out", file="ram", token=1, name="ram")
    assert [entry["name"] for entry in vmm.call("contents", session="out")] == ["ram"]
    vmm.call("release", session="out")
