"""Section 5 of docs/kernel.md, "the memfd while preserved": the calls that still work on it, and their effect on the
copy.
"""

from __future__ import annotations

import os

import pytest

from luod.testing import eventually
from tests.conformance.caller import Caller
from tests.conformance.voyage import Voyage, across_jumps

SIZE = 8192
KEEP_SIZE, PUNCH_HOLE = 1, 2
F_SEAL_SEAL, F_SEAL_SHRINK, F_SEAL_GROW, F_SEAL_WRITE, F_SEAL_FUTURE_WRITE, F_SEAL_EXEC = 1, 2, 4, 8, 16, 32

Row = tuple[str, str, dict[str, object]]
WRITES: list[Row] = [
    ("write past the end", "pwrite", {"data": b"x", "offset": SIZE}),
    ("write across the end", "pwrite", {"data": b"xx", "offset": SIZE - 1}),
]
COPIES = ("sendfile", "splice", "copy_file_range")
REFUSED: list[Row] = [
    ("grow", "ftruncate", {"size": SIZE + 1}),
    ("shrink", "ftruncate", {"size": SIZE - 1}),
    ("grow by a path", "truncate", {"size": SIZE + 1}),
    ("shrink by a path", "truncate", {"size": SIZE - 1}),
    ("fallocate inside", "fallocate", {"mode": 0, "offset": 0, "length": 4096}),
    ("fallocate beyond", "fallocate", {"mode": 0, "offset": SIZE, "length": 4096}),
    ("fallocate, KEEP_SIZE", "fallocate", {"mode": KEEP_SIZE, "offset": 0, "length": 4096}),
    ("punch a hole", "fallocate", {"mode": PUNCH_HOLE | KEEP_SIZE, "offset": 0, "length": 4096}),
]


@pytest.fixture
def preserved(caller: Caller) -> Caller:
    """Returns a caller with the preserved memfd "m", mapped as "before"."""
    caller.create()
    caller.ask("memfd", slot="m", size=SIZE)
    caller.ask("fill", fd="m", length=SIZE, seed=1)
    caller.ask("map", name="before", fd="m", length=SIZE)
    caller.ask("preserve", session="s", fd="m", token=1)
    return caller


def test_reads_and_writes_inside_the_size(preserved: Caller) -> None:
    assert preserved.ask("pwrite", fd="m", data=b"new", offset=SIZE - 3) == 3
    assert preserved.ask("pread", fd="m", length=10, offset=SIZE - 3) == "new"


def test_stores_through_old_and_new_mappings(preserved: Caller) -> None:
    preserved.ask("map", name="after", fd="m", length=SIZE)
    preserved.ask("poke", name="before", offset=0, data=b"old map")
    preserved.ask("poke", name="after", offset=4096, data=b"new map")
    assert preserved.ask("pread", fd="m", length=7, offset=0) == "old map"
    assert preserved.ask("pread", fd="m", length=7, offset=4096) == "new map"


@pytest.mark.divergence("test_preserved_memfd_grows_by_a_write")
@pytest.mark.parametrize(("row", "call", "parameters"), WRITES, ids=[row[0] for row in WRITES])
def test_refused_writes(preserved: Caller, row: str, call: str, parameters: dict[str, object]) -> None:
    before = preserved.ask("digest", fd="m")
    assert preserved.says(call, fd="m", **parameters) == "EPERM"
    assert preserved.ask("digest", fd="m") == before


@pytest.mark.divergence("test_preserved_memfd_grows_by_calls_that_copy")
@pytest.mark.parametrize("call", COPIES)
def test_refused_copies(preserved: Caller, call: str) -> None:
    before = preserved.ask("digest", fd="m")
    assert preserved.says("copy", fd="m", call=call, data="x" * 100, offset=SIZE) == "EPERM"
    assert preserved.ask("digest", fd="m") == before


@pytest.mark.parametrize("call", COPIES)
def test_copies_inside_the_size(preserved: Caller, call: str) -> None:
    assert preserved.ask("copy", fd="m", call=call, data="new", offset=SIZE - 3) == 3
    assert preserved.ask("pread", fd="m", length=10, offset=SIZE - 3) == "new"


@pytest.mark.parametrize(("row", "call", "parameters"), REFUSED, ids=[row[0] for row in REFUSED])
def test_refused(preserved: Caller, row: str, call: str, parameters: dict[str, object]) -> None:
    before = preserved.ask("digest", fd="m")
    assert preserved.says(call, fd="m", **parameters) == "EPERM"
    assert preserved.ask("digest", fd="m") == before


def test_refused_madvise_remove(preserved: Caller) -> None:
    before = preserved.ask("digest", fd="m")
    assert preserved.says("madvise_remove", name="before") == "EPERM"
    assert preserved.says("process_madvise_remove", name="before") == "EPERM"
    assert preserved.ask("digest", fd="m") == before


@pytest.mark.parametrize(("length", "answer"), [(0, "OK"), (1, "EPERM"), (-1, "EINVAL"), (-4096, "EINVAL")])
def test_lengths_of_madvise_remove(preserved: Caller, length: int, answer: str) -> None:
    assert preserved.says("madvise_remove", name="before", length=length) == answer


@pytest.mark.parametrize(("first", "answer"), [("hole", "EPERM"), ("private", "EINVAL"), ("shared", "EPERM")])
def test_madvise_remove_of_more_than_the_memfd(preserved: Caller, first: str, answer: str) -> None:
    preserved.ask("memfd", slot="other", size=SIZE)
    assert preserved.says("madvise_remove_across", first=first, other="other", fd="m") == answer


@pytest.mark.divergence("test_madv_remove_of_a_range_with_a_preserved_memfd_changes_nothing")
def test_madvise_remove_punches_what_comes_before_the_memfd(preserved: Caller) -> None:
    preserved.ask("memfd", slot="other", size=SIZE)
    preserved.ask("pwrite", fd="other", data=b"other", offset=0)
    assert preserved.says("madvise_remove_across", first="shared", other="other", fd="m") == "EPERM"
    assert preserved.ask("pread", fd="other", length=5, offset=0) == "\0" * 5


def test_checks_that_come_before_the_refusal(preserved: Caller) -> None:
    assert preserved.says("ftruncate", fd="m", size=-1) == "EINVAL"
    assert preserved.says("fallocate", fd="m", mode=0, offset=0, length=0) == "EINVAL"
    assert preserved.says("fallocate", fd="m", mode=PUNCH_HOLE, offset=0, length=4096) == "ENOTSUP"  # the same number
    preserved.ask("reopen", fd="m", flags=os.O_RDONLY, slot="readable")
    assert preserved.says("ftruncate", fd="readable", size=0) == "EINVAL"
    assert preserved.says("fallocate", fd="readable", mode=0, offset=0, length=4096) == "EBADF"


def test_ftruncate_to_the_same_size(preserved: Caller) -> None:
    assert preserved.says("ftruncate", fd="m", size=SIZE) == "OK"


@pytest.mark.parametrize("seal", [F_SEAL_GROW, F_SEAL_SHRINK, F_SEAL_FUTURE_WRITE, F_SEAL_SEAL])
def test_seals_can_be_added(preserved: Caller, seal: int) -> None:
    assert preserved.says("add_seals", fd="m", seals=seal) == "OK"


@pytest.mark.parametrize("seal", [F_SEAL_WRITE, F_SEAL_EXEC])
def test_seal_write_is_busy_even_if_never_mapped(caller: Caller, seal: int) -> None:
    """F_SEAL_EXEC implies it on a file with mode x."""
    caller.create()
    caller.preserved_memfd()
    assert caller.says("add_seals", fd="m", seals=seal) == "EBUSY"
    caller.ask("close", fd="s")
    eventually(lambda: caller.says("add_seals", fd="m", seals=seal) == "OK", describe="the seal can be added")


def test_holes_are_filled(caller: Caller) -> None:
    caller.create()
    caller.ask("memfd", slot="m", size=4 << 20)
    assert caller.ask("stat", fd="m")["blocks"] == 0
    caller.ask("preserve", session="s", fd="m", token=1)
    assert caller.ask("stat", fd="m")["blocks"] * 512 == 4 << 20


@pytest.mark.parametrize(("row", "call", "parameters"), WRITES + REFUSED, ids=[row[0] for row in WRITES + REFUSED])
def test_allowed_again_after_the_close_of_the_session(
    preserved: Caller, row: str, call: str, parameters: dict[str, object]
) -> None:
    preserved.ask("close", fd="s")
    assert preserved.says(call, fd="m", **parameters) == "OK"


@across_jumps
def test_the_last_write_is_carried(caller: Caller) -> Voyage:
    caller.create()
    caller.ask("memfd", slot="m", size=SIZE)
    caller.ask("map", name="map", fd="m", length=SIZE)
    caller.ask("preserve", session="s", fd="m", token=1)
    caller.ask("pwrite", fd="m", data=b"written", offset=0)
    caller.ask("poke", name="map", offset=4096, data=b"stored")
    caller = yield
    caller.retrieve()
    caller.ask("retrieve_fd", session="s", token=1, slot="m")
    assert caller.ask("pread", fd="m", length=7, offset=0) == "written"
    assert caller.ask("pread", fd="m", length=6, offset=4096) == "stored"


@across_jumps
def test_a_closed_memfd_is_carried(caller: Caller) -> Voyage:
    caller.create()
    digest = caller.preserved_memfd()
    caller.ask("close", fd="m")
    caller = yield
    caller.retrieve()
    caller.ask("retrieve_fd", session="s", token=1, slot="m")
    assert caller.ask("digest", fd="m") == digest


@across_jumps
def test_lseek_is_carried(caller: Caller) -> Voyage:
    caller.create()
    caller.preserved_memfd(size=SIZE)
    assert caller.ask("lseek", fd="m", offset=1234) == 1234
    caller = yield
    caller.retrieve()
    caller.ask("retrieve_fd", session="s", token=1, slot="m")
    assert caller.ask("lseek", fd="m", offset=0, whence=os.SEEK_CUR) == 1234


@pytest.mark.parametrize("seal", [F_SEAL_GROW, F_SEAL_SHRINK, F_SEAL_FUTURE_WRITE, F_SEAL_SEAL])
@across_jumps
def test_seals_added_later_are_not_carried(caller: Caller, seal: int) -> Voyage:
    caller.create()
    caller.preserved_memfd()
    caller.ask("add_seals", fd="m", seals=seal)
    caller = yield
    caller.retrieve()
    caller.ask("retrieve_fd", session="s", token=1, slot="m")
    assert caller.ask("seals", fd="m") == 0
