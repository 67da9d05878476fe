"""File handlers other than memfd, as VFIO will need them: order of calls, freeze and its undoing, can_finish."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from errno import EBUSY, EINVAL, ENODEV, ENOENT

import pytest

from luod.emulator.model.handler import FileHandler
from luod.emulator.model.kernel import Kernel
from luod.emulator.model.memfd import MemfdHandler
from luod.emulator.model.ports import Errno, HostFile, Kind
from luod.emulator.model.profile import Profile
from luod.uapi.liveupdate import LIVEUPDATE_SESSION_UNPRESERVE_FD
from tests.emulator.model.world import (
    COMMAND_LINE,
    FORMATS,
    IMAGE,
    READ_ONLY,
    Description,
    Inode,
    Process,
    Reference,
    World,
    boot,
    bzimage,
    jump,
    number,
)

BOTH = bzimage(*FORMATS, "vfio-pci-v1")


@dataclass
class Bus:
    """The state of the devices, over all boots. Their names are their contents."""

    world: World | None = None
    calls: list[str] = field(default_factory=list)
    stuck: set[str] = field(default_factory=set)
    unbound: set[str] = field(default_factory=set)
    unfinished: set[str] = field(default_factory=set)


@dataclass
class DeviceRecord:
    name: str

    def drop(self) -> None:
        """Does nothing: a device has no memory of its own."""


class DeviceHandler(FileHandler[str, DeviceRecord]):
    """A file of kind OTHER with contents. Open files are compared by identity."""

    compatible = "vfio-pci-v1"

    def __init__(self, bus: Bus) -> None:
        self.bus = bus

    def can_preserve(self, file: HostFile) -> bool:
        return file.kind is Kind.OTHER

    def identity(self, file: HostFile) -> Hashable:
        assert isinstance(file, Reference)
        return id(file.description)

    def preserve(self, file: HostFile) -> str:
        assert isinstance(file, Reference)
        assert isinstance(file.description.target, Inode)
        return file.description.target.data.decode()

    def unpreserve(self, file: HostFile, state: str) -> None:
        self.bus.calls.append(f"unpreserve {state}")

    def freeze(self, file: HostFile, state: str) -> None:
        if state in self.bus.stuck:
            raise Errno(EINVAL)
        self.bus.calls.append(f"freeze {state}")

    def unfreeze(self, file: HostFile, state: str) -> None:
        self.bus.calls.append(f"unfreeze {state}")

    def carry(self, file: HostFile, state: str) -> DeviceRecord:
        file.close()
        return DeviceRecord(state)

    def retrieve(self, record: DeviceRecord) -> HostFile:
        self.bus.calls.append(f"retrieve {record.name}")
        if record.name in self.bus.unbound:
            raise Errno(ENODEV)
        assert self.bus.world is not None
        return Reference(self.bus.world, Description(Inode(Kind.OTHER, record.name.encode())))

    def can_finish(self, record: DeviceRecord, file: HostFile | None) -> bool:
        return file is not None and record.name not in self.bus.unfinished

    def finish(self, record: DeviceRecord, file: HostFile | None) -> None:
        self.bus.calls.append(f"finish {record.name}")


@pytest.fixture
def bus() -> Bus:
    return Bus()


@pytest.fixture
def world(bus: Bus) -> Iterator[World]:
    machine = boot(lambda host: Kernel(host, handlers=lambda host: (MemfdHandler(host), DeviceHandler(bus))))
    bus.world = machine
    yield machine
    machine.switch_off()


def hold(vmm: Process, device: int, name: bytes, *devices: str) -> int:
    session = number(vmm.create(device, name))
    for token, each in enumerate(devices):
        assert vmm.preserve(session, vmm.memfd(each.encode(), kind=Kind.OTHER), token) == 0
    return session


def test_close_unpreserves_the_newest_first(bus: Bus, vmm: Process, device: int) -> None:
    vmm.close(hold(vmm, device, b"s", "a", "b", "c"))
    assert bus.calls == ["unpreserve c", "unpreserve b", "unpreserve a"]


def test_identity_is_the_handlers(vmm: Process, device: int) -> None:
    session = number(vmm.create(device, b"s"))
    fd = vmm.memfd(b"a", kind=Kind.OTHER)
    assert vmm.preserve(session, fd, 1) == 0
    assert vmm.preserve(session, vmm.dup(fd), 2) == -EBUSY
    assert vmm.preserve(session, vmm.reopen(fd), 2) == 0


def test_freeze_goes_by_creation_then_preservation(world: World, bus: Bus, vmm: Process, device: int) -> None:
    second = number(vmm.create(device, b"z"))
    hold(vmm, device, b"a", "a1", "a2")
    assert vmm.preserve(second, vmm.memfd(b"z1", kind=Kind.OTHER), 1) == 0
    jump(world, vmm, image=BOTH)
    assert bus.calls == ["freeze z1", "freeze a1", "freeze a2"]


def test_failed_freeze_loses_nothing(world: World, bus: Bus, vmm: Process, device: int) -> None:
    hold(vmm, device, b"one", "a", "b")
    hold(vmm, device, b"two", "c")
    hold(vmm, device, b"three", "d", "e", "stuck", "never")
    bus.stuck.add("stuck")
    assert vmm.kexec_file_load(BOTH, COMMAND_LINE) == 0
    assert vmm.reboot() == -EINVAL
    assert bus.calls == [
        *("freeze a", "freeze b", "freeze c", "freeze d", "freeze e"),
        # This session's files before the failing one, then the sessions before it backwards; files always forwards.
        *("unfreeze d", "unfreeze e", "unfreeze c", "unfreeze a", "unfreeze b"),
    ]
    assert world.lines == ["luo: Freeze failed for token[0x2] handler[vfio-pci-v1] err[-22]"]
    assert world.kernel.kexec_loaded
    assert number(vmm.create(device, b"new"))
    assert vmm.reboot() == -EINVAL
    bus.stuck.clear()
    late = jump(world, vmm, image=BOTH)
    device = late.open_device()
    assert all(number(late.retrieve_session(device, name)) for name in (b"one", b"two", b"three", b"new"))


def test_finish_is_all_or_nothing(world: World, bus: Bus, vmm: Process, device: int) -> None:
    session = hold(vmm, device, b"s", "a", "b")
    assert vmm.preserve(session, vmm.memfd(b"ram"), 9) == 0
    late = jump(world, vmm, image=BOTH)
    incoming = number(late.retrieve_session(late.open_device(), b"s"))
    assert late.finish(incoming) == -EBUSY
    bus.unfinished.add("b")
    assert number(late.retrieve(incoming, 0))
    assert number(late.retrieve(incoming, 1))
    assert late.finish(incoming) == -EBUSY
    assert number(late.retrieve(incoming, 9))
    bus.unfinished.clear()
    bus.calls.clear()
    assert late.finish(incoming) == 0
    assert bus.calls == ["finish b", "finish a"]


def test_failed_retrieve_does_not_ask_the_handler_again(world: World, bus: Bus, vmm: Process, device: int) -> None:
    hold(vmm, device, b"s", "a")
    late = jump(world, vmm, image=BOTH)
    incoming = number(late.retrieve_session(late.open_device(), b"s"))
    bus.unbound.add("a")
    assert late.retrieve(incoming, 0) == -ENODEV
    bus.unbound.clear()
    assert late.retrieve(incoming, 0) == -ENODEV
    assert bus.calls.count("retrieve a") == 1
    assert late.finish(incoming) == -EBUSY


def test_close_that_cannot_finish_puts_the_session_out_of_reach(
    world: World, bus: Bus, vmm: Process, device: int
) -> None:
    session = hold(vmm, device, b"s", "a")
    assert vmm.preserve(session, vmm.memfd(b"ram"), 9) == 0
    late = jump(world, vmm, image=BOTH)
    device = late.open_device()
    late.close(number(late.retrieve_session(device, b"s")))
    assert world.lines[-1] == "luo: Unable to finish session [s] on release"
    assert late.retrieve_session(device, b"s") == -EINVAL
    late.close(device)
    assert late.retrieve_session(late.open_device(), b"s") == -EINVAL
    third = jump(world, late, image=BOTH)
    assert third.retrieve_session(third.open_device(), b"s") == -ENOENT
    assert world.held == []


def test_a_kernel_without_the_handler(world: World, vmm: Process, device: int) -> None:
    hold(vmm, device, b"s", "a")
    late = jump(world, vmm, image=IMAGE)
    assert late.open_device() == -5  # EIO
    assert world.lines[-2] == "luo: No registered handler for compatible 'vfio-pci-v1'"


# The profile `document`


@pytest.fixture
def document() -> Iterator[World]:
    machine = boot(lambda host: Kernel(host, features=Profile.DOCUMENT.features))
    yield machine
    machine.switch_off()


def test_unpreserve_frees_token_and_file(document: World) -> None:
    vmm = Process(document)
    session = number(vmm.create(vmm.open_device(), b"s"))
    memfd = vmm.memfd(b"ram")
    assert vmm.preserve(session, memfd, 1) == 0
    assert vmm.unpreserve(session, 1) == 0
    assert document.held == []
    assert vmm.unpreserve(session, 1) == -ENOENT
    assert vmm.preserve(session, memfd, 2) == 0
    assert vmm.preserve(session, vmm.memfd(), 1) == 0


def test_unpreserve_checks(document: World) -> None:
    vmm = Process(document)
    session = number(vmm.create(vmm.open_device(), b"s"))
    assert vmm.preserve(session, vmm.memfd(), 1) == 0
    assert vmm.unpreserve(session, 1, reserved=1) == -EINVAL
    assert vmm.call(session, LIVEUPDATE_SESSION_UNPRESERVE_FD, (8).to_bytes(8, "little")) == -EINVAL
    assert vmm.preserve(session, vmm.memfd(), 1) == -17  # EEXIST: still there
    assert vmm.unpreserve(session, 1, READ_ONLY) == -14  # EFAULT, but done
    assert vmm.unpreserve(session, 1) == -ENOENT
    late = jump(document, vmm)
    incoming = number(late.retrieve_session(late.open_device(), b"s"))
    assert late.unpreserve(incoming, 1) == -EINVAL
    assert late.retrieve(incoming, 1) == -ENOENT


def test_finish_of_the_document_wants_every_file_retrieved(document: World) -> None:
    vmm = Process(document)
    session = number(vmm.create(vmm.open_device(), b"s"))
    assert vmm.preserve(session, vmm.memfd(), 1) == 0
    assert vmm.preserve(session, vmm.memfd(), 2) == 0
    late = jump(document, vmm)
    device = late.open_device()
    incoming = number(late.retrieve_session(device, b"s"))
    assert number(late.retrieve(incoming, 1))
    assert late.finish(incoming) == -EBUSY
    assert late.finish(incoming, reserved=1) == -EINVAL
    assert number(late.retrieve(incoming, 2))
    assert late.finish(incoming) == 0
    late.close(incoming)
    assert late.retrieve_session(device, b"s") == -ENOENT
