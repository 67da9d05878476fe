"""Incoming sessions: the manifest, retrieving with a check of memory first, finishing without loss."""

from __future__ import annotations

import os

import pytest

from luod.manifest import MANIFEST_TOKEN, PART_SIZE
from luod.testing import Machine
from luod.testing.interpreter import Interpreter
from luod.testing.plugin import BootMachine
from luod.uapi import liveupdate as uapi
from tests.library import Vmm, arrive, start_vmm


def test_the_manifest_names_what_was_preserved(carried: Vmm) -> None:
    ram = {
        "token": 1,
        "name": "ram",
        "kind": "memfd",
        "size": 3 << 20,
        "allocated": 3 << 20,
        "seals": 0,
        "device": None,
    }
    state = {"token": 2, "name": "state", "kind": "memfd", "size": 5000, "allocated": 8192, "seals": 0, "device": None}
    assert carried.call("contents", session="s") == [ram, state]


def test_failed_preserves_leave_no_trace_in_the_manifest(machine: Machine, machine_python: Interpreter) -> None:
    vmm = start_vmm(machine, machine_python)
    vmm.call("create", name="vm", slot="s")
    vmm.ask("make", kind="eventfd", slot="p")
    vmm.memfd("m")
    vmm.refused("preserve", session="s", file="p", token=1)
    vmm.call("preserve", session="s", file="m", token=1)
    vmm.refused("preserve", session="s", file="m", token=2)
    vmm.refused("preserve", session="s", file="p", token=1)
    vmm = arrive(machine, machine_python, vmm)
    assert [entry["token"] for entry in vmm.call("contents", session="s")] == [1]


def test_a_manifest_of_many_files_goes_over_several_parts(machine: Machine, machine_python: Interpreter) -> None:
    vmm = start_vmm(machine, machine_python)
    vmm.call("create", name="vm", slot="s")
    vmm.call("preserve_many", session="s", count=1500)
    vmm = arrive(machine, machine_python, vmm)
    names = [entry["name"] for entry in vmm.call("contents", session="s")]
    assert names == [f"file {token}" for token in range(1500)]
    vmm.call("retrieve", session="s", file="file 1499", slot="m")
    assert vmm.ask("pread", fd="m", length=4, offset=0) == "1499"
    assert len(vmm.refused("finish", session="s").tokens) == 1499


@pytest.mark.parametrize("how", ["token", "name"])
def test_files_are_retrieved_by_token_or_name_with_their_contents(
    machine: Machine, machine_python: Interpreter, how: str
) -> None:
    vmm = start_vmm(machine, machine_python)
    vmm.call("create", name="vm", slot="s")
    digests = {name: vmm.memfd(name, size=size, seed=size) for name, size in (("ram", 1 << 20), ("state", 77))}
    for token, name in enumerate(digests):
        vmm.call("preserve", session="s", file=name, token=token, name=name)
    vmm = arrive(machine, machine_python, vmm)
    for token, name in reversed(list(enumerate(digests))):
        vmm.call("retrieve", session="s", file=token if how == "token" else name, slot=name)
        assert vmm.ask("digest", fd=name) == digests[name]
    vmm.call("finish", session="s")
    vmm.call("close", session="s")
    assert [vmm.ask("digest", fd=name) for name in digests] == list(digests.values())


def test_retrieved_again_it_is_another_fd_of_the_same_open_file(carried: Vmm) -> None:
    carried.call("retrieve", session="s", file="ram", slot="one")
    carried.call("retrieve", session="s", file=1, slot="two")
    carried.ask("lseek", fd="one", offset=123)
    assert carried.ask("lseek", fd="two", offset=0, whence=os.SEEK_CUR) == 123
    carried.ask("close", fd="one")
    carried.ask("close", fd="two")
    carried.call("retrieve", session="s", file=1, slot="three")
    assert carried.ask("stat", fd="three")["size"] == 3 << 20


def test_what_the_session_does_not_hold_is_typed(carried: Vmm) -> None:
    error = carried.refused("retrieve", session="s", file="disk", slot="x")
    assert (error.kind, error.errno) == ("BadInput", None)
    error = carried.refused("retrieve", session="s", file=3, slot="x")
    assert (error.kind, error.errno) == ("NoSuchToken", "ENOENT")
    for file in (-1, 2**64, 1.5, True, None):
        assert carried.refused("retrieve", session="s", file=file, slot="x").kind == "BadInput"


@pytest.mark.parametrize("code", ["ENOMEM", "ENOSPC", "EFAULT"])
def test_a_retrieve_that_failed_is_said_to_be_final(carried: Vmm, code: str) -> None:
    carried.call("contents", session="s")
    carried.ask("deny", call="ioctl", code=code, argument=1, value=uapi.LIVEUPDATE_SESSION_RETRIEVE_FD)
    error = carried.refused("retrieve", session="s", file=1, slot="x")
    assert (error.kind, error.errno) == ("RetrieveFailed", code)
    assert "final" in error.hint


def test_a_manifest_that_will_not_come_leaves_tokens_and_discard(carried: Vmm) -> None:
    child = carried.fork_vmm("child")
    child.ask("deny", call="ioctl", code="ENOMEM", argument=1, value=uapi.LIVEUPDATE_SESSION_RETRIEVE_FD)
    assert child.refused("contents", session="s").kind == "RetrieveFailed"
    assert child.refused("finish", session="s").kind == "RetrieveFailed"
    assert child.refused("finish", session="s", tokens=[1, 2]).tokens == (1, 2)
    child.call("finish", session="s", tokens=[])


def test_a_signal_without_end_does_not_hold_a_call_for_ever(carried: Vmm) -> None:
    carried.call("contents", session="s")
    carried.ask("deny", call="ioctl", code="EINTR", argument=1, value=uapi.LIVEUPDATE_SESSION_RETRIEVE_FD)
    assert carried.refused("retrieve", session="s", file=1, slot="x").errno == "EINTR"


def strict_overcommit(machine: Machine, *, left_kb: int) -> None:
    """Shows the machine's processes a kernel under strict overcommit with `left_kb` KiB to commit."""
    machine.write("/run/meminfo", b"CommitLimit: %d kB\nCommitted_AS: 0 kB\n" % left_kb)
    machine.write("/run/overcommit", b"2\n")
    machine.write("/run/zero", b"0\n")
    for source, target in (
        ("meminfo", "meminfo"),
        ("overcommit", "sys/vm/overcommit_memory"),
        ("zero", "sys/vm/admin_reserve_kbytes"),
        ("zero", "sys/vm/user_reserve_kbytes"),
    ):
        machine.bind(f"/run/{source}", f"/proc/{target}")


def test_h01_a_file_that_memory_would_not_take_is_not_retrieved(machine: Machine, carried_alone: Vmm) -> None:
    strict_overcommit(machine, left_kb=2048)
    # It must not get to the ioctl, which would be final.
    child = carried_alone.fork_vmm("child")
    child.call("contents", session="s")
    child.ask("deny", call="ioctl", code="EDOM", argument=1, value=uapi.LIVEUPDATE_SESSION_RETRIEVE_FD)
    for file in (1, "ram"):
        error = child.refused("retrieve", session="s", file=file, slot="x")
        assert (error.kind, error.errno, error.needed) == ("NotEnoughMemory", None, 3 << 20)
        assert "strict overcommit" in error.message
    assert child.refused("retrieve", session="s", file=99, slot="x", size=5 << 20).needed == 5 << 20
    # A file that fits is retrieved. The refused one still exists, and is retrieved without the check.
    carried_alone.call("retrieve", session="s", file="state", slot="state")
    assert carried_alone.refused("retrieve", session="s", file=1, slot="ram").kind == "NotEnoughMemory"
    carried_alone.call("retrieve", session="s", file=1, slot="ram", check_memory=False)
    carried_alone.call("retrieve", session="s", file=1, slot="again")
    carried_alone.call("finish", session="s")


def test_h01_not_even_the_manifest_is_read_without_memory_for_it(machine: Machine, carried_alone: Vmm) -> None:
    strict_overcommit(machine, left_kb=4)
    error = carried_alone.refused("contents", session="s")
    assert (error.kind, error.needed) == ("NotEnoughMemory", PART_SIZE)


@pytest.mark.parametrize("profile", ["mainline", "document"])
def test_finish_refuses_to_drop_what_was_not_retrieved(
    boot_machine: BootMachine, machine_python: Interpreter, profile: str
) -> None:
    machine = boot_machine(profile=profile)
    vmm = start_vmm(machine, machine_python)
    vmm.call("create", name="vm", slot="s")
    for token in range(3):
        vmm.memfd(f"m{token}")
        vmm.call("preserve", session="s", file=f"m{token}", token=token)
    vmm = arrive(machine, machine_python, vmm)
    vmm.call("retrieve", session="s", file=1, slot="m1")
    error = vmm.refused("finish", session="s")
    assert (error.kind, error.errno, error.tokens) == ("NotRetrieved", None, (0, 2))
    assert vmm.call("unretrieved", session="s") == [0, 2]
    vmm.call("retrieve", session="s", file=0, slot="m0")
    vmm.call("retrieve", session="s", file=2, slot="m2")
    assert vmm.call("finished", session="s") is False
    vmm.call("finish", session="s")
    assert vmm.call("finished", session="s") is True
    vmm.call("finish", session="s")
    assert vmm.refused("retrieve", session="s", file=0, slot="x").kind == "NoSuchToken"
    assert vmm.call("name", session="s") == "vm"


def test_told_to_discard_finish_drops_the_rest_on_mainline(carried: Vmm) -> None:
    carried.call("retrieve", session="s", file=1, slot="ram")
    carried.call("finish", session="s", discard=True)
    assert carried.refused("retrieve", session="s", file=2, slot="x").kind == "NoSuchToken"
    assert carried.ask("stat", fd="ram")["size"] == 3 << 20


def test_the_document_profile_refuses_even_to_discard(boot_machine: BootMachine, machine_python: Interpreter) -> None:
    machine = boot_machine(profile="document")
    vmm = start_vmm(machine, machine_python)
    vmm.call("create", name="vm", slot="s")
    vmm.memfd("m")
    vmm.call("preserve", session="s", file="m", token=1)
    vmm = arrive(machine, machine_python, vmm)
    error = vmm.refused("finish", session="s", discard=True)
    assert (error.kind, error.errno) == ("FinishRefused", "EBUSY")
    assert vmm.call("finished", session="s") is False
    vmm.call("retrieve", session="s", file=1, slot="m")
    vmm.call("finish", session="s")


def test_without_a_manifest_finish_wants_to_be_told(machine: Machine, machine_python: Interpreter) -> None:
    vmm = start_vmm(machine, machine_python)
    vmm.call("create", name="vm", slot="s", manifest=False)
    vmm.memfd("m")
    vmm.call("preserve", session="s", file="m", token=9)
    vmm = arrive(machine, machine_python, vmm)
    assert vmm.call("contents", session="s") is None
    assert vmm.refused("finish", session="s").kind == "ContentsUnknown"
    error = vmm.refused("finish", session="s", tokens=[9, 10])
    assert (error.kind, error.tokens) == ("NotRetrieved", (9, 10))
    vmm.call("retrieve", session="s", file=9, slot="m")
    assert vmm.refused("finish", session="s", tokens=[9, 10]).tokens == (10,)
    # The kernel answers that there is no 10, so finishing drops nothing.
    assert vmm.refused("retrieve", session="s", file=10, slot="x").kind == "NoSuchToken"
    vmm.call("finish", session="s", tokens=[9, 10])


def test_tokens_beyond_the_manifest_are_added_to_it(carried: Vmm) -> None:
    carried.call("retrieve", session="s", file=1, slot="ram")
    assert carried.refused("finish", session="s", tokens=[7]).tokens == (7, 2)


def test_a_manifest_that_is_none_leaves_tokens_and_discard(machine: Machine, machine_python: Interpreter) -> None:
    vmm = start_vmm(machine, machine_python)
    vmm.call("create", name="vm", slot="s", manifest=False)
    digests = [vmm.memfd(slot, seed=seed) for seed, slot in enumerate(["m", "n"])]
    vmm.call("preserve", session="s", file="m", token=MANIFEST_TOKEN)
    vmm.call("preserve", session="s", file="n", token=1)
    vmm = arrive(machine, machine_python, vmm)
    assert vmm.refused("contents", session="s").kind == "ManifestError"
    assert vmm.refused("finish", session="s").kind == "ManifestError"
    assert vmm.refused("retrieve", session="s", file="ram", slot="x").kind == "ManifestError"
    vmm.call("retrieve", session="s", file=1, slot="n")
    vmm.call("retrieve", session="s", file=MANIFEST_TOKEN, slot="m")
    assert [vmm.ask("digest", fd="m"), vmm.ask("digest", fd="n")] == digests
    vmm.call("finish", session="s", tokens=[1, MANIFEST_TOKEN])


def test_a_process_that_takes_over_must_retrieve_for_itself(carried: Vmm) -> None:
    carried.call("retrieve", session="s", file=1, slot="ram")
    carried.call("fd", session="s", slot="fd")
    carried.call("wrap_incoming", fd="fd", slot="successor")
    assert carried.refused("finish", session="successor").tokens == (1, 2)
    for file in ("ram", "state"):
        carried.call("retrieve", session="successor", file=file, slot=f"{file} again")
    carried.call("finish", session="successor")


def test_h10_a_holder_of_a_duplicate_sees_that_the_session_was_finished(carried: Vmm) -> None:
    carried.call("fd", session="s", slot="fd")
    carried.call("wrap_incoming", fd="fd", slot="holder")
    assert carried.call("holds", session="holder") is True
    assert carried.call("holds", session="holder", token=3) is False
    carried.call("finish", session="s", discard=True)
    assert carried.call("holds", session="holder") is False


def test_a_file_that_was_only_looked_for_is_not_dropped_by_finish(carried: Vmm) -> None:
    carried.call("retrieve", session="s", file="state", slot="state")
    for token in (1, 2):
        assert carried.call("holds", session="s", token=token) is True
    assert carried.refused("finish", session="s").tokens == (1,)
    carried.call("retrieve", session="s", file="ram", slot="ram")
    carried.call("finish", session="s")


def test_closing_the_last_fd_ends_the_session_like_finish(carried: Vmm) -> None:
    carried.call("fd", session="s", slot="fd")
    carried.call("close", session="s")
    carried.call("wrap_incoming", fd="fd", slot="holder")
    carried.call("retrieve", session="holder", file="ram", slot="ram")
    carried.call("close", session="holder")
    carried.ask("close", fd="fd")
    assert carried.refused("retrieve_session", name=carried.row, slot="again").kind == "NoSuchSession"
    assert carried.ask("stat", fd="ram")["size"] == 3 << 20
