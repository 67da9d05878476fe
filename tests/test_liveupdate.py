"""luod.liveupdate on a machine: each typed error, what guards against loss, and the manifest over jumps.

How the kernel itself answers is `tests/conformance/`; these are the library's own promises.
"""

from __future__ import annotations

import itertools
import os
import stat
from collections.abc import Iterator

import pytest

from luod.emulator.machine.stub import bzimage
from luod.linux import F_SEAL_EXEC, MFD_ALLOW_SEALING, MFD_CLOEXEC, MFD_NOEXEC_SEAL
from luod.manifest import MANIFEST_TOKEN, PART_SIZE, RESERVED_TOKENS
from luod.testing import Machine
from luod.testing.interpreter import Interpreter
from luod.testing.plugin import BootMachine, booting_machines
from luod.uapi import liveupdate as uapi
from tests.library import Vmm, jump, load, start_vmm

_numbers = itertools.count()


@pytest.fixture(scope="module")
def root_vmm(machine_kind: str, machine_python: Interpreter) -> Iterator[Vmm]:
    """The process that those of the tests without a jump are forked from, in one machine for all."""
    with booting_machines(machine_kind) as boot:
        yield start_vmm(boot(), machine_python)


@pytest.fixture
def vmm(root_vmm: Vmm) -> Iterator[Vmm]:
    """A process of the test's own; what it holds ends with the test."""
    name = str(next(_numbers))
    yield root_vmm.fork_vmm(name)
    root_vmm.ask("end", kid=name)


@pytest.fixture
def carried(machine: Machine, machine_python: Interpreter) -> Vmm:
    """A process after a jump, with the incoming session "s": "ram" is token 1 in it, "state" is 2."""
    before = start_vmm(machine, machine_python)
    before.call("create", name="vm", slot="s")
    before.memfd("ram", size=3 << 20, seed=1)
    before.memfd("state", size=5000, seed=2)
    before.call("preserve", session="s", file="ram", token=1, name="ram")
    before.call("preserve", session="s", file="state", token=2, name="state")
    return arrive(machine, machine_python, before)


def arrive(machine: Machine, python: Interpreter, before: Vmm) -> Vmm:
    """Jumps, and retrieves session "vm" as "s"."""
    load(machine, before)
    jump(machine, before)
    after = start_vmm(machine, python)
    after.call("retrieve_session", name="vm", slot="s")
    return after


# -- the device ----------------------------------------------------------------------------------------------------


def test_a_machine_without_the_device_says_what_to_boot(vmm: Vmm) -> None:
    error = vmm.refused("open_path", path="/dev/no-such-device")
    assert (error.kind, error.errno) == ("NoLiveUpdate", "ENOENT")
    assert "liveupdate=on" in error.hint


def test_the_device_is_for_root(vmm: Vmm) -> None:
    vmm.ask("become", uid=65534)
    error = vmm.refused("open")
    assert (error.kind, error.errno) == ("NoLiveUpdate", "EACCES")


def test_a_second_open_is_busy_also_after_some_patience(vmm: Vmm) -> None:
    vmm.open_device()
    for patience in (0.0, 0.05):
        error = vmm.refused("open", patience=patience)
        assert (error.kind, error.errno) == ("DeviceBusy", "EBUSY")


def test_patience_outlasts_another_who_has_it_open(machine: Machine, machine_python: Interpreter) -> None:
    other, vmm = start_vmm(machine, machine_python), start_vmm(machine, machine_python)
    other.open_device()
    question = vmm.program.send({"do": "library", "call": "open", "patience": 60.0})
    other.ask("close", fd="device")
    assert vmm.program.answer(question) == {"ok": {"value": None}}


def test_a_kernel_that_lacks_a_handler_is_a_broken_device(machine: Machine, machine_python: Interpreter) -> None:
    vmm = start_vmm(machine, machine_python)
    vmm.call("create", name="vm", slot="s")
    vmm.memfd("m")
    vmm.call("preserve", session="s", file="m", token=1)
    machine.write("/run/other-kernel", bzimage(formats=("luo-v5", "kho-v4")))
    vmm.call("load", kernel="/run/other-kernel", command_line="liveupdate=on kho=on")
    jump(machine, vmm)
    error = start_vmm(machine, machine_python).refused("open")
    assert (error.kind, error.errno) == ("DeviceBroken", "EIO")


# -- creating and retrieving sessions ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["", "x" * 64, "ü" * 32, "a\0b", "\0", "\ud800"])
@pytest.mark.parametrize("call", ["create", "retrieve_session"])
def test_names_no_session_can_have_are_refused_before_the_call(vmm: Vmm, call: str, name: str) -> None:
    error = vmm.refused(call, name=name, slot="s")
    assert (error.kind, error.errno) == ("BadInput", None)


@pytest.mark.parametrize("name", ["x", "x" * 63, "ü" * 31, "a/b", "..", " \n\x01\x7f", "%s%n", "\udcff\udcfe", "𝄞"])
def test_a_session_tells_the_name_it_was_created_with(vmm: Vmm, name: str) -> None:
    vmm.call("create", name=name, slot="s")
    assert vmm.call("name", session="s") == name


def test_a_name_in_use_is_session_exists_until_the_last_fd_is_closed(vmm: Vmm) -> None:
    vmm.call("create", name="twice", slot="s")
    vmm.call("fd", session="s", slot="duplicate")
    vmm.call("close", session="s")
    error = vmm.refused("create", name="twice", slot="again")
    assert (error.kind, error.errno) == ("SessionExists", "EEXIST")
    vmm.ask("close", fd="duplicate")
    vmm.call("create", name="twice", slot="again")


def test_a_session_nobody_carried_is_no_such_session(vmm: Vmm) -> None:
    vmm.call("create", name="of this boot", slot="s")
    for name in ("never was", "of this boot"):
        error = vmm.refused("retrieve_session", name=name, slot="i")
        assert (error.kind, error.errno) == ("NoSuchSession", "ENOENT")


def test_a_retrieved_session_is_taken_and_once_closed_gone(carried: Vmm) -> None:
    error = carried.refused("retrieve_session", name="vm", slot="again")
    assert (error.kind, error.errno) == ("SessionTaken", "EINVAL")
    carried.call("close", session="s")
    assert carried.refused("retrieve_session", name="vm", slot="again").kind == "NoSuchSession"


def test_without_a_free_fd_nothing_is_lost(carried: Vmm) -> None:
    carried.call("contents", session="s")
    carried.ask("no_free_fd")
    error = carried.refused("retrieve", session="s", file=1, slot="m")
    assert (error.kind, error.errno) == ("KernelRefused", "EMFILE")
    assert "no free fd" in error.message
    carried.ask("free_fds")
    carried.call("retrieve", session="s", file=1, slot="m")


# -- preserving ----------------------------------------------------------------------------------------------------


@pytest.fixture
def session(vmm: Vmm) -> Vmm:
    """`vmm`, with the outgoing session "s" that holds memfd "m" as token 1."""
    vmm.call("create", name=f"row {next(_numbers)}", slot="s")
    vmm.memfd("m")
    vmm.call("preserve", session="s", file="m", token=1, name="ram")
    return vmm


def assert_preserve_refused(
    vmm: Vmm, kind: str, errno: str | None, *, token: int = 2, file: str | int = "n", **how: object
) -> str:
    """PRESERVE_FD fails so, and changes nothing: the object's contents stay, and the token is free."""
    before = vmm.call("contents", session="s")
    error = vmm.refused("preserve", session="s", file=file, token=token, **how)
    assert (error.kind, error.errno) == (kind, errno)
    assert vmm.call("contents", session="s") == before
    assert vmm.call("tokens", session="s") == [1]
    return error.message


def test_a_used_token_is_token_in_use_whatever_the_file(session: Vmm) -> None:
    session.memfd("n")
    assert_preserve_refused(session, "TokenInUse", "EEXIST", token=1)
    assert_preserve_refused(session, "TokenInUse", "EEXIST", token=1, file=-1)


def test_a_file_preserved_twice_is_file_already_preserved(session: Vmm) -> None:
    session.ask("dup", fd="m", slot="n")
    assert_preserve_refused(session, "FileAlreadyPreserved", "EBUSY")
    session.call("create", name=f"row {next(_numbers)}", slot="t")
    error = session.refused("preserve", session="t", file="m", token=1)
    assert (error.kind, error.errno) == ("FileAlreadyPreserved", "EBUSY")


@pytest.mark.parametrize("kind", ["eventfd", "unix socket", "directory"])
def test_a_kind_of_file_that_cannot_be_preserved_is_not_preservable(session: Vmm, kind: str) -> None:
    session.ask("make", kind=kind, slot="n")
    assert "this kind of file" in assert_preserve_refused(session, "FileNotPreservable", "ENOENT")


def test_a_file_too_large_is_not_preservable(session: Vmm) -> None:
    session.ask("memfd", slot="n", size=2**45)
    assert "too large" in assert_preserve_refused(session, "FileNotPreservable", "EFBIG")


@pytest.mark.parametrize("fd", [-1, 999, 2**31, -(2**40)])
def test_an_fd_that_is_not_open_is_the_kernels_ebadf(session: Vmm, fd: int) -> None:
    assert "not open" in assert_preserve_refused(session, "KernelRefused", "EBADF", file=fd)


@pytest.mark.parametrize("token", [-1, 2**64, MANIFEST_TOKEN, RESERVED_TOKENS[0]])
def test_tokens_out_of_range_or_reserved_are_refused_before_the_call(session: Vmm, token: int) -> None:
    session.memfd("n")
    assert_preserve_refused(session, "BadInput", None, token=token)


@pytest.mark.parametrize("token", [0, 2**64 - 1, RESERVED_TOKENS[0] - 1])
def test_all_other_tokens_are_the_callers(session: Vmm, token: int) -> None:
    session.memfd("n")
    session.call("preserve", session="s", file="n", token=token)
    assert session.call("tokens", session="s") == [1, token]


@pytest.mark.parametrize("name", ["", "x" * 256, "\ud800", "ram"])
def test_names_of_files_are_short_text_and_unique(session: Vmm, name: str) -> None:
    session.memfd("n")
    assert_preserve_refused(session, "BadInput", None, name=name)


def test_memory_that_would_come_back_sealed_is_refused_unless_allowed(session: Vmm) -> None:
    session.ask("memfd", slot="n", size=4096, flags=MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL)
    assert "immutable" in assert_preserve_refused(session, "ComesBackSealed", None)
    session.call("preserve", session="s", file="n", token=2, allow_sealed=True)


def test_a_session_without_a_manifest_has_every_token(vmm: Vmm) -> None:
    vmm.call("create", name="bare", slot="s", manifest=False)
    vmm.memfd("m")
    vmm.call("preserve", session="s", file="m", token=MANIFEST_TOKEN)
    assert vmm.call("tokens", session="s") == [MANIFEST_TOKEN]


def test_one_object_a_session_keeps_the_manifest(session: Vmm) -> None:
    session.call("fd", session="s", slot="duplicate")
    session.call("wrap_outgoing", fd="duplicate", slot="other")
    session.memfd("n")
    error = session.refused("preserve", session="other", file="n", token=2)
    assert error.kind == "ManifestError"
    assert "manifest=False" in error.hint
    session.call("wrap_outgoing", fd="duplicate", slot="bare", manifest=False)
    session.call("preserve", session="bare", file="n", token=2)


def test_what_is_no_session_says_so(vmm: Vmm) -> None:
    vmm.ask("make", kind="eventfd", slot="p")
    vmm.call("wrap_outgoing", fd="p", slot="s")
    vmm.memfd("m")
    for error in (vmm.refused("preserve", session="s", file="m", token=1), vmm.refused("name", session="s")):
        assert (error.kind, error.errno) == ("KernelRefused", "ENOTTY")
        assert "neither /dev/liveupdate nor a session" in error.message


def test_the_verbs_of_the_other_direction_are_typed(carried: Vmm) -> None:
    carried.call("fd", session="s", slot="fd")
    carried.call("wrap_outgoing", fd="fd", slot="wrong", manifest=False)
    carried.memfd("m")
    error = carried.refused("preserve", session="wrong", file="m", token=5)
    assert (error.kind, error.errno) == ("WrongDirection", "EINVAL")
    carried.call("create", name="out", slot="out")
    carried.call("fd", session="out", slot="outgoing")
    carried.call("wrap_incoming", fd="outgoing", slot="wrong too")
    for refused in (
        carried.refused("retrieve", session="wrong too", file=1, slot="x"),
        carried.refused("finish", session="wrong too", discard=True),
    ):
        assert (refused.kind, refused.errno) == ("WrongDirection", "EINVAL")


# -- unpreserving --------------------------------------------------------------------------------------------------


def test_unpreserve_is_never_tried_where_the_machine_does_not_say_it_has_it(session: Vmm) -> None:
    assert session.call("unpreserve_available") is False
    # Were the ioctl made all the same, it would now end the process's calls otherwise.
    session.ask("deny", call="ioctl", code="EDOM", argument=1, value=uapi.LIVEUPDATE_SESSION_UNPRESERVE_FD)
    error = session.refused("unpreserve", session="s", token=1)
    assert (error.kind, error.errno) == ("UnpreserveUnavailable", None)
    assert "replace" in error.hint
    assert session.call("tokens", session="s") == [1]


def test_unpreserve_lets_go_of_the_file_and_of_its_entry(
    boot_machine: BootMachine, machine_python: Interpreter
) -> None:
    machine = boot_machine(profile="document")
    vmm = start_vmm(machine, machine_python)
    assert vmm.call("unpreserve_available") is True
    vmm.call("create", name="vm", slot="s")
    for token in (1, 2):
        vmm.memfd(f"m{token}")
        vmm.call("preserve", session="s", file=f"m{token}", token=token, name=f"m{token}")
    vmm.call("create", name="other", slot="other")
    assert vmm.refused("preserve", session="other", file="m1", token=1).kind == "FileAlreadyPreserved"
    vmm.call("unpreserve", session="s", token=1)
    vmm.call("preserve", session="other", file="m1", token=1)
    vmm.call("close", session="other")
    assert vmm.call("tokens", session="s") == [2]
    error = vmm.refused("unpreserve", session="s", token=1)
    assert (error.kind, error.errno) == ("NoSuchToken", "ENOENT")
    assert vmm.refused("unpreserve", session="s", token=2**64).kind == "BadInput"
    vmm.call("preserve", session="s", file="m1", token=3, name="m1")
    vmm = arrive(machine, machine_python, vmm)
    assert [entry["token"] for entry in vmm.call("contents", session="s")] == [2, 3]


# -- retrieving ----------------------------------------------------------------------------------------------------


def test_the_manifest_names_what_was_preserved(carried: Vmm) -> None:
    ram = {"token": 1, "name": "ram", "kind": "memfd", "size": 3 << 20, "allocated": 3 << 20, "seals": 0}
    state = {"token": 2, "name": "state", "kind": "memfd", "size": 5000, "allocated": 8192, "seals": 0}
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
    assert carried.refused("retrieve", session="s", file=-1, slot="x").kind == "BadInput"


@pytest.mark.parametrize("code", ["ENOMEM", "ENOSPC", "EFAULT"])
def test_a_retrieve_that_failed_is_said_to_be_final(carried: Vmm, code: str) -> None:
    carried.call("contents", session="s")
    carried.ask("deny", call="ioctl", code=code, argument=1, value=uapi.LIVEUPDATE_SESSION_RETRIEVE_FD)
    error = carried.refused("retrieve", session="s", file=1, slot="x")
    assert (error.kind, error.errno) == ("RetrieveFailed", code)
    assert "final" in error.hint


def test_a_signal_without_end_does_not_hold_a_call_for_ever(carried: Vmm) -> None:
    carried.call("contents", session="s")
    carried.ask("deny", call="ioctl", code="EINTR", argument=1, value=uapi.LIVEUPDATE_SESSION_RETRIEVE_FD)
    assert carried.refused("retrieve", session="s", file=1, slot="x").errno == "EINTR"


def strict_overcommit(machine: Machine, *, left_kb: int) -> None:
    """Shows the machine's processes a kernel under strict overcommit that has `left_kb` KiB to commit."""
    machine.write("/run/meminfo", b"CommitLimit: %d kB\nCommitted_AS: 0 kB\n" % left_kb)
    machine.write("/run/overcommit", b"2\n")
    machine.write("/run/zero", b"0\n")
    for source, target in (
        ("meminfo", "meminfo"),
        ("overcommit", "sys/vm/overcommit_memory"),
        ("zero", "sys/vm/admin_reserve_kbytes"),
        ("zero", "sys/vm/user_reserve_kbytes"),
    ):
        machine.run(["mount", "--bind", f"/run/{source}", f"/proc/{target}"])


def test_h01_a_file_that_memory_would_not_take_is_not_retrieved(machine: Machine, carried: Vmm) -> None:
    strict_overcommit(machine, left_kb=2048)
    # It must not come as far as the ioctl, which would be final.
    child = carried.fork_vmm("child")
    child.call("contents", session="s")
    child.ask("deny", call="ioctl", code="EDOM", argument=1, value=uapi.LIVEUPDATE_SESSION_RETRIEVE_FD)
    for file in (1, "ram"):
        error = child.refused("retrieve", session="s", file=file, slot="x")
        assert (error.kind, error.errno, error.needed) == ("NotEnoughMemory", None, 3 << 20)
        assert "strict overcommit" in error.message
    assert child.refused("retrieve", session="s", file=99, slot="x", size=5 << 20).needed == 5 << 20
    # What fits is retrieved, and what was refused is there still, and comes when asked for regardless.
    carried.call("retrieve", session="s", file="state", slot="state")
    assert carried.refused("retrieve", session="s", file=1, slot="ram").kind == "NotEnoughMemory"
    carried.call("retrieve", session="s", file=1, slot="ram", check_memory=False)
    carried.call("retrieve", session="s", file=1, slot="again")
    carried.call("finish", session="s")


def test_h01_not_even_the_manifest_is_read_without_memory_for_it(machine: Machine, carried: Vmm) -> None:
    strict_overcommit(machine, left_kb=4)
    error = carried.refused("contents", session="s")
    assert (error.kind, error.needed) == ("NotEnoughMemory", PART_SIZE)


# -- finishing -----------------------------------------------------------------------------------------------------


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
    # The kernel says that there is no 10, so finishing drops nothing.
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


def test_closing_the_last_fd_ends_the_session_like_finish(carried: Vmm) -> None:
    carried.call("fd", session="s", slot="fd")
    carried.call("close", session="s")
    carried.call("wrap_incoming", fd="fd", slot="holder")
    carried.call("retrieve", session="holder", file="ram", slot="ram")
    carried.call("close", session="holder")
    carried.ask("close", fd="fd")
    assert carried.refused("retrieve_session", name="vm", slot="again").kind == "NoSuchSession"
    assert carried.ask("stat", fd="ram")["size"] == 3 << 20


# -- memory --------------------------------------------------------------------------------------------------------


def test_h03_memory_comes_back_writable(machine: Machine, machine_python: Interpreter) -> None:
    vmm = start_vmm(machine, machine_python)
    vmm.call("create", name="vm", slot="s")
    vmm.call("memory", slot="ram", size=(4 << 20) + 1, name="guest")
    found = vmm.ask("stat", fd="ram")
    assert (found["size"], found["blocks"] * 512) == ((4 << 20) + 1, (4 << 20) + 4096)
    assert not vmm.ask("seals", fd="ram") & F_SEAL_EXEC
    vmm.call("preserve", session="s", file="ram", token=1, name="ram")
    vmm = arrive(machine, machine_python, vmm)
    vmm.call("retrieve", session="s", file="ram", slot="ram")
    vmm.ask("pwrite", fd="ram", data="changed", offset=0)
    vmm.ask("ftruncate", fd="ram", size=8 << 20)
    assert stat.S_ISREG(vmm.ask("stat", fd="ram")["mode"])


def test_memory_is_left_to_the_first_touch_on_request(vmm: Vmm) -> None:
    vmm.call("memory", slot="ram", size=1 << 40, populate=False)
    assert vmm.ask("stat", fd="ram")["blocks"] == 0


def test_memory_beyond_what_is_free_is_refused_before_it_is_touched(vmm: Vmm) -> None:
    error = vmm.refused("memory", slot="ram", size=1 << 50)
    assert (error.kind, error.needed) == ("NotEnoughMemory", 1 << 50)


@pytest.mark.parametrize(("size", "name"), [(0, "x"), (-1, "x"), (1, "x" * 250), (1, "a\0b")])
def test_memory_needs_a_size_and_a_short_name(vmm: Vmm, size: int, name: str) -> None:
    assert vmm.refused("memory", slot="ram", size=size, name=name).kind == "BadInput"
