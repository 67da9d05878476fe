"""VMs and guest_memfd files, by stand-ins: the rules of order and lifetime of the posted series."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from errno import EINVAL, ENOENT

import pytest

from luod.emulator.model.kernel import Kernel
from luod.emulator.model.kvm import FORMATS as KVM_FORMATS
from luod.emulator.model.profile import MAINLINE, KvmRules
from luod.emulator.model.results import Jump
from tests.emulator.model.world import COMMAND_LINE, FORMATS, Process, World, boot, bzimage, jump, number

IMAGE = bzimage(*FORMATS, *KVM_FORMATS)


@pytest.fixture(params=list(KvmRules), ids=lambda rules: rules.value)
def rules(request: pytest.FixtureRequest) -> KvmRules:
    found: KvmRules = request.param
    return found


@pytest.fixture
def world(rules: KvmRules) -> Iterator[World]:
    machine = boot(lambda host: Kernel(host, features=dataclasses.replace(MAINLINE, kvm=rules)))
    yield machine
    machine.switch_off()


@pytest.fixture
def session(vmm: Process) -> int:
    return number(vmm.create(number(vmm.open_device()), b"s"))


def file(vmm: Process, name: bytes, data: bytes = b"") -> int:
    fd = vmm.memfd(data)
    vmm.inode(fd).name = name
    return fd


def test_a_vm_and_its_memory_come_back(world: World, vmm: Process, session: int) -> None:
    assert vmm.preserve(session, file(vmm, b"kvm-vm:1"), 1) == 0
    assert vmm.preserve(session, file(vmm, b"kvm-gmem:1", b"ram"), 2) == 0
    late = jump(world, vmm, image=IMAGE)
    incoming = number(late.retrieve_session(number(late.open_device()), b"s"))
    memory, vm = number(late.retrieve(incoming, 2)), number(late.retrieve(incoming, 1))
    assert (late.inode(vm).name, late.contents(vm)) == (b"kvm-vm:1", b"")
    assert (late.inode(memory).name, late.contents(memory)) == (b"kvm-gmem:1", b"ram")
    assert late.finish(incoming) == 0


def test_memory_before_its_vm(rules: KvmRules, vmm: Process, session: int) -> None:
    memory = file(vmm, b"kvm-gmem", b"ram")
    assert vmm.preserve(session, memory, 1) == (-ENOENT if rules is KvmRules.V4 else 0)
    assert vmm.preserve(session, file(vmm, b"kvm-vm"), 2) == 0
    if rules is KvmRules.V4:
        assert vmm.preserve(session, memory, 1) == 0
    assert vmm.kexec_file_load(IMAGE, COMMAND_LINE) == 0
    assert isinstance(vmm.reboot(), Jump)


@pytest.mark.parametrize("rules", [KvmRules.NEWEST])
def test_memory_without_its_vm_in_the_session_fails_the_kexec(world: World, vmm: Process, session: int) -> None:
    assert vmm.preserve(session, file(vmm, b"kvm-gmem:1", b"ram"), 1) == 0
    assert vmm.preserve(session, file(vmm, b"kvm-vm:2"), 2) == 0
    assert vmm.kexec_file_load(IMAGE, COMMAND_LINE) == 0
    assert vmm.reboot() == -ENOENT
    assert world.lines[-1] == f"luo: Freeze failed for token[0x1] handler[guest_memfd_luo_v1] err[{-ENOENT}]"
    assert vmm.preserve(session, file(vmm, b"kvm-vm:1"), 3) == 0
    assert isinstance(vmm.reboot(), Jump)


@pytest.mark.parametrize("rules", [KvmRules.NEWEST])
def test_memory_belongs_to_its_own_vm_in_later_kernels(world: World, vmm: Process, session: int) -> None:
    assert vmm.preserve(session, file(vmm, b"kvm-vm"), 1) == 0
    assert vmm.preserve(session, file(vmm, b"kvm-gmem", b"ram"), 2) == 0
    late = jump(world, vmm, image=IMAGE)
    device = number(late.open_device())
    incoming = number(late.retrieve_session(device, b"s"))
    memory, vm = number(late.retrieve(incoming, 2)), number(late.retrieve(incoming, 1))
    assert late.finish(incoming) == 0
    outgoing = number(late.create(device, b"t"))
    assert late.preserve(outgoing, memory, 2) == late.preserve(outgoing, vm, 1) == 0
    last = jump(world, late, image=IMAGE)
    incoming = number(last.retrieve_session(number(last.open_device()), b"t"))
    assert last.contents(number(last.retrieve(incoming, 2))) == b"ram"


def test_memory_whose_vm_was_not_retrieved_is_without_a_vm(
    world: World, rules: KvmRules, vmm: Process, session: int
) -> None:
    assert vmm.preserve(session, file(vmm, b"kvm-vm"), 1) == 0
    assert vmm.preserve(session, file(vmm, b"kvm-gmem", b"ram"), 2) == 0
    late = jump(world, vmm, image=IMAGE)
    device = number(late.open_device())
    incoming = number(late.retrieve_session(device, b"s"))
    memory = number(late.retrieve(incoming, 2))
    assert late.finish(incoming) == 0
    outgoing = number(late.create(device, b"t"))
    assert late.preserve(outgoing, file(late, b"kvm-vm"), 1) == 0
    assert late.preserve(outgoing, memory, 2) == (-ENOENT if rules is KvmRules.V4 else 0)
    if rules is KvmRules.NEWEST:
        assert late.kexec_file_load(IMAGE, COMMAND_LINE) == 0
        assert late.reboot() == -ENOENT


def test_empty_memory_is_refused(vmm: Process, session: int) -> None:
    assert vmm.preserve(session, file(vmm, b"kvm-vm"), 1) == 0
    assert vmm.preserve(session, file(vmm, b"kvm-gmem"), 2) == -EINVAL


def test_memory_is_frozen_and_a_vm_is_not(world: World, vmm: Process, session: int) -> None:
    vm, memory = file(vmm, b"kvm-vm"), file(vmm, b"kvm-gmem", b"ram")
    assert vmm.preserve(session, vm, 1) == vmm.preserve(session, memory, 2) == 0
    assert world.kernel.frozen_files == {id(vmm.inode(memory))}


def test_other_memfds_are_memfds(world: World, vmm: Process, session: int) -> None:
    assert vmm.preserve(session, file(vmm, b"kvm-vmx", b"ram"), 1) == 0
    late = jump(world, vmm, image=IMAGE)
    incoming = number(late.retrieve_session(number(late.open_device()), b"s"))
    assert late.contents(number(late.retrieve(incoming, 1))) == b"ram"
