"""Outgoing sessions: preserving, refusals that change nothing, and unpreserving."""

from __future__ import annotations

from typing import Any

import pytest

from luod.manifest import MANIFEST_TOKEN, RESERVED_TOKENS
from luod.testing.interpreter import Interpreter
from luod.testing.plugin import BootMachine
from luod.uapi import liveupdate as uapi
from luod.uapi.memfd import MFD_ALLOW_SEALING, MFD_CLOEXEC, MFD_NOEXEC_SEAL
from tests.library import Vmm, arrive, start_vmm


def assert_preserve_refused(
    vmm: Vmm, kind: str, errno: str | None, *, token: int = 2, file: str | int = "n", **how: object
) -> str:
    """Checks that PRESERVE_FD fails so, and changes nothing: the object's contents stay, and the token is free."""
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
    session.call("create", name="other session", slot="t")
    error = session.refused("preserve", session="t", file="m", token=1)
    assert (error.kind, error.errno) == ("FileAlreadyPreserved", "EBUSY")


@pytest.mark.parametrize("kind", ["eventfd", "unix socket", "directory"])
def test_a_kind_of_file_that_cannot_be_preserved_is_not_preservable(session: Vmm, kind: str) -> None:
    session.ask("make", kind=kind, slot="n")
    assert "this kind of file" in assert_preserve_refused(session, "FileNotPreservable", "ENOENT")


def test_a_file_too_large_is_not_preservable(session: Vmm) -> None:
    session.ask("memfd", slot="n", size=2**45)
    message = assert_preserve_refused(session, "FileNotPreservable", "EFBIG", check_memory=False)
    assert "too large" in message


def test_holes_that_memory_cannot_fill_are_refused_before_the_kernel_kills_for_them(session: Vmm) -> None:
    session.ask("memfd", slot="n", size=2**45)
    message = assert_preserve_refused(session, "NotEnoughMemory", None)
    assert "filling the holes" in message
    session.ask("memfd", slot="sparse", size=1 << 20)
    session.call("preserve", session="s", file="sparse", token=3)
    assert session.ask("stat", fd="sparse")["blocks"] * 512 == 1 << 20


@pytest.mark.parametrize("fd", [-1, 999, 2**31, -(2**40)])
def test_an_fd_that_is_not_open_is_the_kernels_ebadf(session: Vmm, fd: int) -> None:
    assert "not open" in assert_preserve_refused(session, "KernelRefused", "EBADF", file=fd)


@pytest.mark.parametrize("token", [-1, 2**64, MANIFEST_TOKEN, RESERVED_TOKENS[0]])
def test_tokens_out_of_range_or_reserved_are_refused_before_the_call(session: Vmm, token: int) -> None:
    session.memfd("n")
    assert_preserve_refused(session, "BadInput", None, token=token)


@pytest.mark.parametrize("token", [1.5, True, "1", None, [2]])
def test_tokens_that_are_no_numbers_never_reach_the_manifest(session: Vmm, token: Any) -> None:
    session.memfd("n")
    assert_preserve_refused(session, "BadInput", None, token=token)


@pytest.mark.parametrize("token", [0, 2**64 - 1, RESERVED_TOKENS[0] - 1])
def test_all_other_tokens_are_the_callers(session: Vmm, token: int) -> None:
    session.memfd("n")
    session.call("preserve", session="s", file="n", token=token)
    assert session.call("tokens", session="s") == [1, token]


@pytest.mark.parametrize("name", ["", "x" * 256, "\ud800", "ram", 5])
def test_names_of_files_are_short_text_and_unique(session: Vmm, name: Any) -> None:
    session.memfd("n")
    assert_preserve_refused(session, "BadInput", None, name=name)


def test_memory_that_would_come_back_sealed_is_refused_unless_allowed(session: Vmm) -> None:
    session.ask("memfd", slot="n", size=4096, flags=MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL)
    assert "immutable" in assert_preserve_refused(session, "ComesBackSealed", None)
    session.call("preserve", session="s", file="n", token=2, allow_sealed=True)


def test_a_token_that_is_chosen_is_never_that_of_qemus_own_mode(vmm: Vmm) -> None:
    """So a reader can tell a session of the library from one of QEMU's cpr-luo, whose state is under token 1."""
    vmm.call("create", name="chosen", slot="s")
    for name in ("a", "b", "c", "d"):
        vmm.memfd(name)
    assert [vmm.call("preserve", session="s", file=name, name=name) for name in ("a", "b", "c")] == [0, 2, 3]
    assert vmm.call("preserve", session="s", file="d", token=1, name="d") == 1


def test_a_session_without_a_manifest_has_every_token(vmm: Vmm) -> None:
    vmm.call("create", name="bare", slot="s", manifest=False)
    vmm.memfd("m")
    vmm.call("preserve", session="s", file="m", token=MANIFEST_TOKEN)
    assert vmm.call("tokens", session="s") == [MANIFEST_TOKEN]


def test_without_a_free_fd_for_the_manifest_nothing_is_preserved(vmm: Vmm) -> None:
    vmm.call("create", name="no fd", slot="s")
    vmm.memfd("m")
    vmm.ask("no_free_fd")
    error = vmm.refused("preserve", session="s", file="m", token=1)
    assert (error.kind, error.errno) == ("KernelRefused", "EMFILE")
    vmm.ask("free_fds")
    vmm.call("preserve", session="s", file="m", token=1)
    assert vmm.call("tokens", session="s") == [1]


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
        assert "not /dev/liveupdate, or not a session" in error.message


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


def test_unpreserve_is_never_tried_where_the_machine_does_not_say_it_has_it(session: Vmm) -> None:
    assert session.call("unpreserve_available") is False
    # If the ioctl were made, it would fail with EDOM.
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
