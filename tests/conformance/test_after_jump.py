"""Section 7 of docs/kernel.md: RETRIEVE_SESSION, RETRIEVE_FD and FINISH in the next kernel and the one after."""

from __future__ import annotations

import itertools
import os

import pytest

from tests.conformance.caller import Caller
from tests.conformance.voyage import Voyage, across_jumps


def sent_off(caller: Caller, tokens: int = 2) -> dict[int, str]:
    """Creates the row's session with memfds under the tokens from 1; returns the sha256 of each."""
    caller.create()
    return {token: caller.preserved_memfd(token=token, slot=f"m{token}") for token in range(1, tokens + 1)}


def back(caller: Caller, token: int, slot: str | None = None) -> str:
    """Retrieves a file; returns the sha256 of its contents, or the errno."""
    slot = slot or f"m{token}"
    said = caller.says("retrieve_fd", session="s", token=token, slot=slot)
    return said if said != "OK" else str(caller.ask("digest", fd=slot))


# -- RETRIEVE_SESSION --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [b"unknown", b"", b"x" * 64], ids=["unknown", "empty", "64 bytes without NUL"])
@across_jumps
def test_retrieve_what_is_no_session(caller: Caller, name: bytes) -> Voyage:
    caller.create()
    caller = yield
    assert caller.can_retrieve(name) == "ENOENT"


@across_jumps
def test_retrieve_by_a_proper_prefix(caller: Caller) -> Voyage:
    caller.create(b"prefix-of-this")
    caller = yield
    assert caller.can_retrieve(b"prefix-of") == "ENOENT"
    assert caller.can_retrieve(b"prefix-of-this") == "OK"


@across_jumps
def test_retrieve_ignores_what_follows_the_nul(caller: Caller) -> Voyage:
    caller.create()
    caller = yield
    assert caller.can_retrieve(caller.row + b"\0garbage") == "OK"


@across_jumps
def test_retrieve_again_while_it_is_open(caller: Caller) -> Voyage:
    caller.create()
    caller = yield
    caller.retrieve()
    assert caller.can_retrieve() == "EINVAL"
    caller.ask("finish", session="s")
    assert caller.can_retrieve() == "EINVAL"


@across_jumps
def test_eight_threads_race_to_retrieve(caller: Caller) -> Voyage:
    caller.create()
    caller = yield
    caller.open_device()
    name = caller.row.decode()
    race = [{"do": "retrieve", "device": "device", "name": name, "slot": f"s{number}"} for number in range(8)]
    answers = caller.ask("race", questions=race)
    assert sorted(answer.get("errno", "OK") for answer in answers) == ["EINVAL"] * 7 + ["OK"]


@pytest.mark.parametrize("finish", [True, False], ids=["with FINISH", "without"])
@across_jumps
def test_retrieve_again_after_the_close(caller: Caller, finish: bool) -> Voyage:
    sent_off(caller)
    caller = yield
    caller.retrieve()
    if finish:
        caller.ask("finish", session="s")
    caller.ask("close", fd="s")
    assert caller.can_retrieve() == "ENOENT"


@across_jumps
def test_retriever_died(caller: Caller) -> Voyage:
    sent_off(caller)
    caller = yield
    caller.fork("retriever").retrieve()
    caller.ask("end", kid="retriever")
    assert caller.can_retrieve() == "ENOENT"


@across_jumps
def test_retrieve_without_a_free_fd(caller: Caller) -> Voyage:
    digests = sent_off(caller, 1)
    caller = yield
    caller.open_device()
    caller.ask("no_free_fd")
    assert caller.says("retrieve", device="device", name=caller.row, slot="s") == "EMFILE"
    caller.ask("free_fds")
    assert caller.says("retrieve", device="device", name=caller.row, slot="s") == "OK"
    caller.ask("no_free_fd")
    assert caller.says("retrieve_fd", session="s", token=1, slot="m1") == "EMFILE"
    caller.ask("free_fds")
    assert back(caller, 1) == digests[1]


@across_jumps
def test_retrieve_into_read_only_memory_loses_the_session(caller: Caller) -> Voyage:
    sent_off(caller)
    caller = yield
    caller.open_device()
    assert caller.says("retrieve", device="device", name=caller.row, slot="s", memory="read-only") == "EFAULT"
    assert caller.says("retrieve", device="device", name=caller.row, slot="s") == "ENOENT"


@across_jumps
def test_preserve_in_a_retrieved_session(caller: Caller) -> Voyage:
    caller.create()
    caller = yield
    caller.retrieve()
    caller.ask("memfd", slot="m", size=4096)
    assert caller.says("preserve", session="s", fd="m", token=1) == "EINVAL"
    caller.ask("finish", session="s")
    assert caller.says("preserve", session="s", fd="m", token=1) == "EINVAL"


# -- RETRIEVE_FD -------------------------------------------------------------------------------------------------


@across_jumps
def test_unknown_token(caller: Caller) -> Voyage:
    sent_off(caller, 1)
    caller = yield
    caller.retrieve()
    assert back(caller, 99) == "ENOENT"


@across_jumps
def test_same_token_again(caller: Caller) -> Voyage:
    digests = sent_off(caller, 1)
    caller = yield
    caller.retrieve()
    assert back(caller, 1, "first") == digests[1]
    assert back(caller, 1, "second") == digests[1]
    first, second = (caller.ask("stat", fd=slot) for slot in ("first", "second"))
    assert (first["dev"], first["ino"]) == (second["dev"], second["ino"])
    caller.ask("lseek", fd="first", offset=77)
    assert caller.ask("lseek", fd="second", offset=0, whence=os.SEEK_CUR) == 77
    caller.ask("close", fd="first")
    caller.ask("close", fd="second")
    assert back(caller, 1, "third") == digests[1]
    assert caller.ask("lseek", fd="third", offset=0, whence=os.SEEK_CUR) == 77


@pytest.mark.parametrize("order", list(itertools.permutations((1, 2, 3))), ids=str)
@across_jumps
def test_tokens_in_any_order(caller: Caller, order: tuple[int, ...]) -> Voyage:
    digests = sent_off(caller, 3)
    caller = yield
    caller.retrieve()
    for token in order:
        assert back(caller, token) == digests[token]


@across_jumps
def test_retrieve_fd_into_read_only_memory_can_be_repeated(caller: Caller) -> Voyage:
    digests = sent_off(caller, 1)
    caller = yield
    caller.retrieve()
    assert caller.says("retrieve_fd", session="s", token=1, slot="m1", memory="read-only") == "EFAULT"
    assert back(caller, 1) == digests[1]


@across_jumps
def test_retrieved_memfd_is_not_frozen(caller: Caller) -> Voyage:
    sent_off(caller, 1)
    caller = yield
    caller.retrieve()
    back(caller, 1)
    assert caller.ask("pwrite", fd="m1", data=b"beyond", offset=4096) == 6
    caller.ask("ftruncate", fd="m1", size=10)
    caller.ask("ftruncate", fd="m1", size=1 << 20)
    caller.ask("pwrite", fd="m1", data=b"inside", offset=0)
    assert caller.ask("pread", fd="m1", length=6, offset=0) == "inside"


# -- FINISH ------------------------------------------------------------------------------------------------------


@across_jumps
def test_finish_reserved_must_be_zero(caller: Caller) -> Voyage:
    digests = sent_off(caller, 1)
    caller = yield
    caller.retrieve()
    assert caller.says("finish", session="s", reserved=1) == "EINVAL"
    assert caller.says("finish", session="s", size=4) == "EINVAL"
    assert caller.says("finish", session="s", size=16, tail=b"\1") == "E2BIG"
    assert back(caller, 1) == digests[1]


@pytest.mark.parametrize("taken", [0, 1, 2])
@across_jumps
def test_finish_with_some_retrieved(caller: Caller, taken: int) -> Voyage:
    digests = sent_off(caller, 2)
    caller = yield
    caller.retrieve()
    for token in range(1, taken + 1):
        assert back(caller, token) == digests[token]
    assert caller.says("finish", session="s") == "OK"
    assert caller.says("finish", session="s") == "OK"
    assert back(caller, 1, "late") == "ENOENT"
    assert back(caller, 2, "late too") == "ENOENT"


@across_jumps
def test_finish_of_an_empty_session(caller: Caller) -> Voyage:
    caller.create()
    caller = yield
    caller.retrieve()
    assert caller.says("finish", session="s") == "OK"


@across_jumps
def test_finish_into_read_only_memory_has_finished(caller: Caller) -> Voyage:
    sent_off(caller, 1)
    caller = yield
    caller.retrieve()
    assert caller.says("finish", session="s", memory="read-only") == "EFAULT"
    assert back(caller, 1) == "ENOENT"


@across_jumps
def test_fds_outlive_finish_and_close(caller: Caller) -> Voyage:
    digests = sent_off(caller, 1)
    caller = yield
    caller.retrieve()
    back(caller, 1)
    caller.ask("finish", session="s")
    caller.ask("close", fd="s")
    assert caller.ask("digest", fd="m1") == digests[1]
    caller.ask("pwrite", fd="m1", data=b"alive", offset=0)


# -- the third kernel --------------------------------------------------------------------------------------------


@across_jumps
def test_left_waiting_in_the_second_kernel(caller: Caller) -> Voyage:
    sent_off(caller)
    caller = yield
    caller = yield
    assert caller.can_retrieve() == "ENOENT"


@across_jumps
def test_retrieved_and_not_finished_in_the_second_kernel(caller: Caller) -> Voyage:
    sent_off(caller)
    caller = yield
    caller.retrieve()
    back(caller, 1)
    caller = yield
    assert caller.can_retrieve() == "ENOENT"


@across_jumps
def test_created_in_the_second_kernel(caller: Caller) -> Voyage:
    caller = yield
    digests = sent_off(caller)
    caller = yield
    caller.retrieve()
    assert back(caller, 1) == digests[1]


@across_jumps
def test_preserved_again_in_the_second_kernel(caller: Caller) -> Voyage:
    digests = sent_off(caller, 1)
    caller = yield
    caller.retrieve()
    assert back(caller, 1) == digests[1]
    caller.ask("finish", session="s")
    caller.create(slot="next")
    caller.ask("preserve", session="next", fd="m1", token=1)
    caller = yield
    caller.retrieve()
    assert back(caller, 1) == digests[1]


@across_jumps
def test_two_directions_under_one_name(caller: Caller) -> Voyage:
    sent_off(caller, 1)
    caller = yield
    caller.create(slot="next")
    digest = caller.preserved_memfd(token=5, slot="new", session="next")
    caller.retrieve()
    assert back(caller, 5) == "ENOENT"
    caller = yield
    caller.retrieve()
    assert back(caller, 1) == "ENOENT"
    assert back(caller, 5) == digest
