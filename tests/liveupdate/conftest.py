"""Processes that use the library: one in a machine shared by the tests without a jump, one with a session carried."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from luod.testing import Machine
from luod.testing.interpreter import Interpreter
from luod.testing.plugin import booting_machines
from tests.library import Vmm, arrive, start_vmm

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


@pytest.fixture
def session(vmm: Vmm) -> Vmm:
    """`vmm`, with the outgoing session "s" that holds memfd "m" as token 1."""
    vmm.call("create", name=f"session {next(_numbers)}", slot="s")
    vmm.memfd("m")
    vmm.call("preserve", session="s", file="m", token=1, name="ram")
    return vmm
