"""Processes that use the library: one in a machine shared by the tests without a jump, one with a session carried."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from luod.testing import Machine
from luod.testing.interpreter import Interpreter
from luod.testing.plugin import booting_machines
from tests.library import Vmm, arrive, jump, load, start_vmm

SESSIONS = 16
"""More than any module has tests after a kexec: a session is retrieved once."""

_numbers = itertools.count()
_sessions = itertools.count()


@pytest.fixture(scope="module")
def root_vmm(machine_kind: str, machine_python: Interpreter, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vmm]:
    """Yields the parent of the processes of the tests without a kexec, in one machine for all."""
    with booting_machines(machine_kind, scratch=tmp_path_factory.getbasetemp()) as boot:
        yield start_vmm(boot(), machine_python)


@pytest.fixture
def vmm(root_vmm: Vmm) -> Iterator[Vmm]:
    """Yields a process of the test's own, which ends with the test."""
    name = str(next(_numbers))
    yield root_vmm.fork_vmm(name)
    root_vmm.ask("end", kid=name)


def preserve_vm(vmm: Vmm, name: str) -> None:
    """Preserves the memfds "ram" (3 MiB, token 1) and "state" (5000 bytes, token 2); nothing else stays open."""
    child = vmm.fork_vmm(name)
    child.call("create", name=name, slot="s")
    for token, (file, size) in enumerate({"ram": 3 << 20, "state": 5000}.items(), start=1):
        child.memfd(file, size=size, seed=token)
        child.call("preserve", session="s", file=file, token=token, name=file)


@pytest.fixture(scope="module")
def landed_vmm(
    machine_kind: str, machine_python: Interpreter, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Vmm]:
    """Yields the parent of the processes of the tests after a kexec: one kexec, and a session for each of them."""
    with booting_machines(machine_kind, scratch=tmp_path_factory.getbasetemp()) as boot:
        machine = boot()
        before = start_vmm(machine, machine_python)
        for number in range(SESSIONS):
            preserve_vm(before, f"vm {number}")
        load(machine, before)
        jump(machine, before)
        yield start_vmm(machine, machine_python)


@pytest.fixture
def carried(landed_vmm: Vmm) -> Iterator[Vmm]:
    """Yields a process of the test's own after a kexec, with the incoming session "s" of `preserve_vm`."""
    number = next(_sessions) % SESSIONS
    child = landed_vmm.fork_vmm(f"vm {number}")
    child.row = f"vm {number}".encode()
    child.call("retrieve_session", name=f"vm {number}", slot="s")
    yield child
    landed_vmm.ask("end", kid=f"vm {number}")


@pytest.fixture
def carried_alone(machine: Machine, machine_python: Interpreter) -> Vmm:
    """Returns a process as `carried`, in a machine of the test's own."""
    before = start_vmm(machine, machine_python)
    preserve_vm(before, "vm")
    return arrive(machine, machine_python, before)


@pytest.fixture
def session(vmm: Vmm) -> Vmm:
    """Returns `vmm`, with the outgoing session "s" that holds memfd "m" as token 1."""
    vmm.call("create", name=f"session {next(_numbers)}", slot="s")
    vmm.memfd("m")
    vmm.call("preserve", session="s", file="m", token=1, name="ram")
    return vmm
