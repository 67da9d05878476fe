"""Random lives of two devices over many boots, against a reference that knows rules and no kernel.

The reference was written from the posted series alone (docs/kernel.md, 12): the result of each call, for v2 and v5.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from errno import EAGAIN, EBUSY, EINVAL, EIO, ENODEV, ENOENT

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from luod.emulator.model.results import Blocked
from tests.emulator.model.vfio.machine import A, B, DeviceWorld, Vmm, done, power_on
from tests.emulator.model.world import number

DEVICES = (A, B)
NAMES = (b"one", b"two", b"three")
UNBIND = "bus/pci/drivers/vfio-pci/unbind"


@dataclass(eq=False)
class File:
    """An open file of a device. `fd` is None if no process has it open. `kept`: live update holds it."""

    device: Device
    fd: int | None
    kept: int = 0
    bound: bool = False


@dataclass(eq=False)
class Device:
    """A device in one boot."""

    taken: bool = False
    leaving: bool = False
    dead: bool = False
    interrupts: bool = False
    tracked: bool = False
    incoming: bool = False
    files: list[File] = field(default_factory=list)
    consumer: Carried | None = None
    """Under v2: whose FINISH the next first bind makes possible."""

    @property
    def bound(self) -> bool:
        return any(file.bound for file in self.files)


@dataclass(eq=False)
class Carried:
    """A preserved device in the next kernel."""

    address: str
    tracked: bool
    file: File | None = None
    failed: bool = False
    enabled: bool = False


@dataclass(eq=False)
class Session:
    fd: int
    files: dict[int, File] = field(default_factory=dict)


@dataclass(eq=False)
class Incoming:
    files: dict[int, Carried]
    fd: int | None = None
    out_of_reach: bool = False


class Lives(RuleBasedStateMachine):
    """One process a boot makes all calls."""

    version = ""

    @initialize()
    def switch_on(self) -> None:
        self.world: DeviceWorld = power_on(rules=self.version)
        self.v5 = self.version == "v5"
        self.outgoing: dict[bytes, Session] = {}
        self.incoming: dict[bytes, Incoming] = {}
        self.start(Vmm(self.world))

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.world.switch_off()

    def start(self, vmm: Vmm) -> None:
        self.vmm = vmm
        self.liveupdate = number(vmm.open_device())
        self.iommu = number(vmm.open("/dev/iommu"))
        self.devices = {address: Device() for address in DEVICES}
        self.waiting: dict[str, int | Blocked] = {}
        self.token = 0

    def files(self) -> list[File]:
        return [file for device in self.devices.values() for file in device.files]

    def in_use(self) -> list[File]:
        return [file for file in self.files() if file.fd is not None]

    def settle(self) -> None:
        """Removes files that no process has open, and completes the unbinds that waited for them."""
        for device in self.devices.values():
            for file in tuple(device.files):
                if file.fd is None and not file.kept:
                    device.files.remove(file)
                    if file.bound:
                        device.interrupts = False
            if device.leaving and not device.files:
                device.taken = device.leaving = device.dead = False
                device.consumer = None

    # Drivers.

    @rule(address=st.sampled_from(DEVICES))
    def take(self, address: str) -> None:
        device = self.devices[address]
        if device.taken:
            return
        self.vmm.take(address)
        device.taken = True

    @rule(address=st.sampled_from(DEVICES))
    def let_go(self, address: str) -> None:
        device = self.devices[address]
        if device.leaving:
            return
        result = self.vmm.echo(address, UNBIND)
        if not device.taken:
            assert result == -ENODEV
        elif device.files:
            assert done(result) is None
            device.leaving = True
            self.waiting[address] = result
        else:
            assert result == len(address) + 1
            device.taken = device.dead = False

    # Files.

    @rule(address=st.sampled_from(DEVICES))
    def open_cdev(self, address: str) -> None:
        device = self.devices[address]
        there = device.taken and not device.leaving
        assert self.vmm.exists(f"bus/pci/devices/{address}/vfio-dev") == there
        if not there:
            return
        result = self.vmm.open_cdev(address)
        if device.incoming:
            assert result == -EBUSY
        else:
            device.files.append(File(device, number(result)))

    @precondition(lambda self: self.in_use())
    @rule(data=st.data())
    def bind(self, data: st.DataObject) -> None:
        file = data.draw(st.sampled_from(self.in_use()))
        device = file.device
        assert file.fd is not None
        result = self.vmm.bind(file.fd, self.iommu)
        if device.bound:
            assert result == -EINVAL
            return
        if device.leaving and (device.consumer is None or self.v5):
            assert result == -EAGAIN, "it cannot be reset"
            return
        assert number(result)
        file.bound = True
        if device.consumer is not None:
            device.consumer.enabled = True
            device.consumer = None

    @precondition(lambda self: self.in_use())
    @rule(data=st.data())
    def close(self, data: st.DataObject) -> None:
        file = data.draw(st.sampled_from(self.in_use()))
        assert file.fd is not None
        self.vmm.close(file.fd)
        file.fd = None
        self.settle()

    @precondition(lambda self: self.in_use())
    @rule(data=st.data())
    def use(self, data: st.DataObject) -> None:
        file = data.draw(st.sampled_from(self.in_use()))
        assert file.fd is not None
        expected = -EINVAL if not file.bound else -EIO if file.device.dead else 0
        assert self.vmm.get_info(file.fd) == expected

    @precondition(lambda self: self.in_use())
    @rule(data=st.data(), on=st.booleans())
    def interrupts(self, data: st.DataObject, on: bool) -> None:
        file = data.draw(st.sampled_from(self.in_use()))
        if not file.bound or file.device.dead or file.fd is None or on == file.device.interrupts:
            return
        eventfd = self.vmm.new_eventfd()
        assert self.vmm.msix(file.fd, *([eventfd] if on else [])) == 0
        self.vmm.close(eventfd)
        file.device.interrupts = on

    # Sessions of this kernel.

    @rule(name=st.sampled_from(NAMES))
    def create(self, name: bytes) -> None:
        if name not in self.outgoing:
            self.outgoing[name] = Session(number(self.vmm.create(self.liveupdate, name)))

    @precondition(lambda self: self.outgoing and self.in_use())
    @rule(data=st.data())
    def preserve(self, data: st.DataObject) -> None:
        session = data.draw(st.sampled_from(list(self.outgoing.values())))
        file = data.draw(st.sampled_from(self.in_use()))
        device = file.device
        assert file.fd is not None
        self.token += 1
        result = self.vmm.preserve(session.fd, file.fd, self.token)
        if self.v5 and not device.bound:
            assert result == -ENOENT
        elif file.kept or (self.v5 and device.tracked):
            assert result == -EBUSY
        else:
            assert result == 0
            file.kept += 1
            device.tracked = True
            session.files[self.token] = file

    @precondition(lambda self: self.outgoing)
    @rule(data=st.data())
    def give_up(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.outgoing)))
        session = self.outgoing.pop(name)
        self.vmm.close(session.fd)
        for file in session.files.values():
            file.kept -= 1
            file.device.tracked = False
        self.settle()

    # Over the jump.

    @precondition(lambda self: not any(device.leaving for device in self.devices.values()))
    @rule()
    def reboot(self) -> None:
        kept = [file for session in self.outgoing.values() for file in session.files.values()]
        noisy = next((index for index, file in enumerate(kept) if file.device.interrupts), None)
        for file in kept[:noisy]:
            file.device.dead = file.device.dead or self.v5
        if noisy is not None:
            operator = self.world.load()
            assert operator.reboot() == -EINVAL
            return
        addresses = {device: address for address, device in self.devices.items()}
        carried = {
            name: Incoming(
                {token: Carried(addresses[file.device], file.device.tracked) for token, file in session.files.items()}
            )
            for name, session in self.outgoing.items()
        }
        following = self.world.jump(self.vmm)
        self.outgoing, self.incoming = {}, carried
        self.start(following)
        for session in carried.values():
            for record in session.files.values():
                device = self.devices[record.address]
                device.incoming = device.incoming or record.tracked

    @rule(name=st.sampled_from(NAMES))
    def retrieve_session(self, name: bytes) -> None:
        result = self.vmm.retrieve_session(self.liveupdate, name)
        session = self.incoming.get(name)
        if session is None:
            assert result == -ENOENT
        elif session.fd is not None or session.out_of_reach:
            assert result == -EINVAL
        else:
            session.fd = number(result)

    def reachable(self) -> list[Incoming]:
        return [session for session in self.incoming.values() if session.fd is not None]

    @precondition(lambda self: any(session.files for session in self.reachable()))
    @rule(data=st.data())
    def retrieve(self, data: st.DataObject) -> None:
        session = data.draw(st.sampled_from([session for session in self.reachable() if session.files]))
        token = data.draw(st.sampled_from(sorted(session.files)))
        record = session.files[token]
        device = self.devices[record.address]
        assert session.fd is not None
        result = self.vmm.retrieve(session.fd, token)
        if record.file is None and (record.failed or not device.taken or device.leaving):
            record.failed = True
            assert result == -ENODEV
            return
        fd = number(result)
        if record.file is None:
            record.file = File(device, fd, kept=1)
            device.files.append(record.file)
            device.consumer = record
        elif record.file.fd is None:
            record.file.fd = fd
        else:
            self.vmm.close(fd)

    def can_finish(self, session: Incoming) -> bool:
        return all(
            record.file is not None and (self.devices[record.address].bound if self.v5 else record.enabled)
            for record in session.files.values()
        )

    def finished(self, session: Incoming) -> None:
        for record in session.files.values():
            assert record.file is not None
            record.file.kept -= 1
            if record.tracked:
                self.devices[record.address].incoming = False
        session.files = {}
        self.settle()

    @precondition(lambda self: self.reachable())
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        session = data.draw(st.sampled_from(self.reachable()))
        assert session.fd is not None
        result = self.vmm.finish(session.fd)
        if self.can_finish(session):
            assert result == 0
            self.finished(session)
        else:
            assert result == -EBUSY

    @precondition(lambda self: self.reachable())
    @rule(data=st.data())
    def close_incoming(self, data: st.DataObject) -> None:
        session = data.draw(st.sampled_from(self.reachable()))
        assert session.fd is not None
        self.vmm.close(session.fd)
        session.fd = None
        if self.can_finish(session):
            self.finished(session)
            self.incoming = {name: each for name, each in self.incoming.items() if each is not session}
        else:
            session.out_of_reach = True

    @invariant()
    def nodes_and_waiting_calls_are_as_they_should(self) -> None:
        if not hasattr(self, "world"):
            return
        taken = [device for device in self.devices.values() if device.taken]
        usable = [device for device in taken if not device.leaving]
        assert len(self.world.vfio.nodes()) == 2 + len(taken) + len(usable)
        for address, result in tuple(self.waiting.items()):
            if self.devices[address].leaving:
                assert done(result) is None
            else:
                assert done(self.waiting.pop(address)) == 0
        for address, device in self.devices.items():
            assert bool(self.world.vfio.functions[DEVICES.index(address)].carriage.incoming) == device.incoming


class LivesV2(Lives):
    version = "v2"


class LivesV5(Lives):
    version = "v5"


PROFILE = settings(stateful_step_count=60)
TestV2 = pytest.mark.filterwarnings("error")(LivesV2.TestCase)
TestV5 = pytest.mark.filterwarnings("error")(LivesV5.TestCase)
TestV2.settings = TestV5.settings = PROFILE
