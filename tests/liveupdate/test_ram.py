"""Memory made for a live update."""

from __future__ import annotations

import pytest

from luod.testing import Machine
from luod.testing.interpreter import Interpreter
from luod.uapi.memfd import F_SEAL_EXEC
from tests.library import Vmm, arrive, start_vmm


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
    assert vmm.ask("stat", fd="ram")["size"] == 8 << 20


def test_memory_is_left_to_the_first_touch_on_request(vmm: Vmm) -> None:
    vmm.call("memory", slot="ram", size=1 << 40, populate=False)
    assert vmm.ask("stat", fd="ram")["blocks"] == 0


def test_memory_beyond_what_is_free_is_refused_before_it_is_touched(vmm: Vmm) -> None:
    error = vmm.refused("memory", slot="ram", size=1 << 50)
    assert (error.kind, error.needed) == ("NotEnoughMemory", 1 << 50)


def test_memory_the_kernel_gives_no_fd_for_is_typed(vmm: Vmm) -> None:
    vmm.ask("no_free_fd")
    error = vmm.refused("memory", slot="ram", size=4096)
    assert (error.kind, error.errno) == ("KernelRefused", "EMFILE")


@pytest.mark.parametrize(
    ("size", "name"), [(0, "x"), (-1, "x"), (1, "x" * 250), (1, "a\0b"), (1.5, "x"), ("1", "x"), (1, 2)]
)
def test_memory_needs_a_size_and_a_short_name(vmm: Vmm, size: object, name: object) -> None:
    assert vmm.refused("memory", slot="ram", size=size, name=name).kind == "BadInput"
