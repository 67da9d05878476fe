"""Section 7 of docs/kernel.md, "what a memfd keeps"."""

from __future__ import annotations

import os
import stat

import pytest

from tests.conformance.caller import Caller
from tests.conformance.voyage import Voyage, across_jumps

MFD_CLOEXEC, MFD_ALLOW_SEALING, MFD_NOEXEC_SEAL = 1, 2, 8
F_SEAL_SEAL, F_SEAL_EXEC = 1, 0x20


def back(caller: Caller) -> None:
    caller.retrieve()
    caller.ask("retrieve_fd", session="s", token=1, slot="m")


@pytest.mark.parametrize("size", [0, 1, 4095, 4096, 4097, 1 << 20])
@across_jumps
def test_contents_and_size(caller: Caller, size: int) -> Voyage:
    caller.create()
    digest = caller.preserved_memfd(size=size)
    caller = yield
    back(caller)
    assert caller.ask("stat", fd="m")["size"] == size
    assert caller.ask("digest", fd="m") == digest


@across_jumps
def test_position(caller: Caller) -> Voyage:
    caller.create()
    caller.ask("memfd", slot="m", size=4096)
    caller.ask("lseek", fd="m", offset=5000)
    caller.ask("preserve", session="s", fd="m", token=1)
    caller = yield
    back(caller)
    assert caller.ask("lseek", fd="m", offset=0, whence=os.SEEK_CUR) == 5000


@pytest.mark.parametrize("seals", [0, 1, 2, 4, 6, 8, 0x10, 0x0F, 0x1F])
@across_jumps
def test_seals(caller: Caller, seals: int) -> Voyage:
    caller.create()
    caller.ask("memfd", slot="m", size=4096)
    caller.ask("add_seals", fd="m", seals=seals)
    caller.ask("preserve", session="s", fd="m", token=1)
    caller = yield
    back(caller)
    assert caller.ask("seals", fd="m") == seals


@across_jumps
def test_seals_of_a_memfd_that_allows_none(caller: Caller) -> Voyage:
    caller.create()
    caller.ask("memfd", slot="m", size=4096, flags=MFD_CLOEXEC)
    assert caller.ask("seals", fd="m") == F_SEAL_SEAL
    caller.ask("preserve", session="s", fd="m", token=1)
    caller = yield
    back(caller)
    assert caller.ask("seals", fd="m") == F_SEAL_SEAL


@across_jumps
def test_seal_exec_becomes_all_seals(caller: Caller) -> Voyage:
    caller.create()
    caller.ask("memfd", slot="m", size=4096, flags=MFD_CLOEXEC | MFD_NOEXEC_SEAL)
    assert caller.ask("seals", fd="m") == F_SEAL_EXEC
    assert stat.S_IMODE(caller.ask("stat", fd="m")["mode"]) == 0o666
    caller.ask("preserve", session="s", fd="m", token=1)
    caller = yield
    back(caller)
    assert caller.ask("seals", fd="m") == 0x3E
    assert stat.S_IMODE(caller.ask("stat", fd="m")["mode"]) == 0o777
    assert caller.says("pwrite", fd="m", data=b"x", offset=0) == "EPERM"
    assert caller.says("map", name="map", fd="m", length=4096) == "EPERM"
    assert caller.says("ftruncate", fd="m", size=0) == "EPERM"
    assert caller.says("fchmod", fd="m", mode=0o666) == "EPERM"


@pytest.mark.parametrize("kind", ["tmpfs file, unlinked", "tmpfs O_TMPFILE"])
@across_jumps
def test_a_file_without_links_comes_back_as_a_memfd(caller: Caller, kind: str) -> Voyage:
    caller.create()
    caller.ask("make", kind=kind, slot="m")
    caller.ask("pwrite", fd="m", data=b"contents", offset=0)
    caller.ask("preserve", session="s", fd="m", token=1)
    caller = yield
    back(caller)
    found = caller.ask("stat", fd="m")
    assert caller.ask("pread", fd="m", length=100, offset=0) == "contents"
    assert (stat.S_IMODE(found["mode"]), found["uid"], found["gid"]) == (0o777, 0, 0)
    assert caller.ask("seals", fd="m") == F_SEAL_SEAL


@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_RDWR | os.O_APPEND], ids=["O_RDONLY", "O_APPEND"])
@across_jumps
def test_status_flags_are_not_kept(caller: Caller, flags: int) -> Voyage:
    caller.create()
    caller.ask("memfd", slot="made", size=4096)
    caller.ask("reopen", fd="made", flags=flags, slot="m")
    caller.ask("preserve", session="s", fd="m", token=1)
    caller = yield
    back(caller)
    assert caller.ask("getfl", fd="m") == 0o100002
    assert caller.says("pwrite", fd="m", data=b"x", offset=0) == "OK"


@across_jumps
def test_close_on_exec_is_set(caller: Caller) -> Voyage:
    caller.create()
    caller.ask("memfd", slot="m", size=4096, flags=MFD_ALLOW_SEALING)
    caller.ask("preserve", session="s", fd="m", token=1)
    caller = yield
    back(caller)
    assert caller.ask("getfd", fd="m") == 1


@pytest.mark.divergence("test_name_of_a_retrieved_file")
@across_jumps
def test_name_is_not_kept(caller: Caller) -> Voyage:
    caller.create()
    caller.preserved_memfd()
    caller = yield
    back(caller)
    assert caller.ask("link", fd="m") == "/ (deleted)"


@across_jumps
def test_mode_and_owner_are_not_kept(caller: Caller) -> Voyage:
    caller.create()
    child = caller.fork("child")
    child.become(1000)
    child.ask("memfd", slot="m", size=4096)
    child.ask("fchmod", fd="m", mode=0o600)
    assert child.ask("stat", fd="m")["uid"] == 1000
    child.ask("preserve", session="s", fd="m", token=1)
    caller = yield
    back(caller)
    found = caller.ask("stat", fd="m")
    assert (stat.S_IMODE(found["mode"]), found["uid"], found["gid"]) == (0o777, 0, 0)


@across_jumps
def test_sparseness_is_not_kept(caller: Caller) -> Voyage:
    caller.create()
    caller.ask("memfd", slot="m", size=1 << 20)
    caller.ask("preserve", session="s", fd="m", token=1)
    caller = yield
    back(caller)
    assert caller.ask("stat", fd="m")["blocks"] * 512 == 1 << 20
