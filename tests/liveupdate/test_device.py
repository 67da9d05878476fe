"""The device: opening it, creating and retrieving sessions, and the type of each refusal."""

from __future__ import annotations

import pytest

from luod.emulator.machine.stub import bzimage
from luod.testing import Machine
from luod.testing.interpreter import Interpreter
from tests.library import Vmm, jump, start_vmm


def test_a_machine_without_the_device_says_what_to_boot(vmm: Vmm) -> None:
    error = vmm.refused("open_path", path="/dev/no-such-device")
    assert (error.kind, error.errno) == ("NoLiveUpdate", "ENOENT")
    assert "liveupdate=on" in error.hint


def test_the_device_is_for_root(vmm: Vmm) -> None:
    vmm.become(65534)
    error = vmm.refused("open")
    assert (error.kind, error.errno) == ("NoLiveUpdate", "EACCES")


def test_a_second_open_is_busy_also_after_some_patience(vmm: Vmm) -> None:
    vmm.open_device()
    for patience in (0.0, 0.05):
        error = vmm.refused("open", patience=patience)
        assert (error.kind, error.errno) == ("LiveUpdateBusy", "EBUSY")


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
    assert (error.kind, error.errno) == ("LiveUpdateBroken", "EIO")


@pytest.mark.parametrize("name", ["", "x" * 64, "ü" * 32, "a\0b", "\0", "\ud800", 5, None])
@pytest.mark.parametrize("call", ["create", "retrieve_session"])
def test_names_no_session_can_have_are_refused_before_the_call(vmm: Vmm, call: str, name: object) -> None:
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
    error = carried.refused("retrieve_session", name=carried.row, slot="again")
    assert (error.kind, error.errno) == ("SessionTaken", "EINVAL")
    carried.call("close", session="s")
    assert carried.refused("retrieve_session", name=carried.row, slot="again").kind == "NoSuchSession"


def test_without_a_free_fd_nothing_is_lost(carried: Vmm) -> None:
    carried.call("contents", session="s")
    carried.ask("no_free_fd")
    error = carried.refused("retrieve", session="s", file=1, slot="m")
    assert (error.kind, error.errno) == ("KernelRefused", "EMFILE")
    assert "no free fd" in error.message
    carried.ask("free_fds")
    carried.call("retrieve", session="s", file=1, slot="m")
