"""D17 to D20: the device in the next kernel, retrieved, bound, finished; refusals on the way. Under both tables."""

from __future__ import annotations

from errno import EAGAIN, EBUSY, EINVAL, EIO, ENODEV, ENOENT

import pytest

from luod.emulator.model.profile import Profile
from luod.emulator.model.results import Jump
from luod.emulator.model.vfio.hardware import device as registers
from luod.uapi import vfio as uapi
from tests.emulator.model.vfio.machine import IMAGE, A, B, DeviceWorld, Vmm, done, power_on
from tests.emulator.model.vfio.test_preserve import session_for
from tests.emulator.model.world import FORMATS, bzimage, number


def incoming(vmm: Vmm, name: bytes = b"vm") -> int:
    device = number(vmm.open_device())
    session = number(vmm.retrieve_session(device, name))
    vmm.close(device)
    return session


@pytest.fixture
def following(world: DeviceWorld, vmm: Vmm) -> Vmm:
    """Returns a process in the next kernel. `vm` has device A as token 1 and a memfd as token 2; no device is bound."""
    device, _ = vmm.opened()
    vmm.set_config(device, 4, 0x0006)
    vmm.pwrite(device, registers.SCRATCH, b"12345678")
    session = session_for(vmm)
    assert vmm.preserve(session, device, 1) == 0
    assert vmm.preserve(session, vmm.memfd(b"guest"), 2) == 0
    return world.jump(vmm)


def test_d17_it_is_retrieved_like_any_file(following: Vmm) -> None:
    following.take()
    session = incoming(following)
    device = number(following.retrieve(session, 1))
    assert following.model_file(device).link == b"anon_inode:[vfio-device-liveupdate]"
    again = number(following.retrieve(session, 1))
    assert again != device
    assert following.model_file(again) is following.model_file(device)
    assert following.cloexec[device]


def test_d20_it_comes_back_reset_and_idle_at_the_same_address(following: Vmm) -> None:
    following.take()
    device = number(following.retrieve(incoming(following), 1))
    number(following.bind(device, number(following.open("/dev/iommu"))))
    assert following.pread(device, 0, 64) == b"LUOD" + bytes(60)
    assert following.config(device, 4) == 0x0002
    assert following.get_info(device) == 0


def test_d20_it_works_after_the_update_as_before(world: DeviceWorld, vmm: Vmm) -> None:
    sums = []
    for boot in (1, 2):
        if boot == 1:
            device, iommu = vmm.opened()
        else:
            vmm = world.jump(vmm)
            vmm.take()
            device, iommu = number(vmm.retrieve(incoming(vmm), 1)), number(vmm.open("/dev/iommu"))
            number(vmm.bind(device, iommu))
        ioas = vmm.ioas(iommu)
        number(vmm.attach(device, ioas))
        vmm.write(vmm.ram(1), bytes(range(100)))
        assert vmm.map(iommu, ioas, 0x100000, 4096, 0) == 0
        vmm.set_config(device, 4, 0x0006)
        vmm.pwrite(device, registers.LENGTH, (100).to_bytes(8, "little"))
        vmm.pwrite(device, registers.DESTINATION, (2048).to_bytes(8, "little"))
        vmm.pwrite(device, registers.DOORBELL, b"\1")
        sums.append((int.from_bytes(vmm.read(0x100800, 8), "little"), vmm.pread(device, registers.COUNT, 1)))
        if boot == 1:
            assert vmm.preserve(session_for(vmm), device, 1) == 0
    assert sums == [(4950, b"\1")] * 2


def test_in_the_next_kernel_it_has_no_driver_until_somebody_binds_one(world: DeviceWorld, following: Vmm) -> None:
    assert not following.exists(f"bus/pci/devices/{A}/driver")
    assert following.show(f"bus/pci/devices/{A}/driver_override") == "(null)\n"
    assert world.vfio.nodes() == ("/dev/iommu", "/dev/vfio/vfio")


def test_e9_nothing_stops_a_driver_of_the_host_from_taking_it(rules: str) -> None:
    world = power_on(f"{A},driver=nvme", rules=rules)
    vmm = Vmm(world)
    vmm.take(A)
    assert vmm.preserve(session_for(vmm), vmm.opened()[0], 1) == 0
    following = world.jump(vmm)
    assert following.resolve(f"bus/pci/devices/{A}/driver") == "bus/pci/drivers/nvme"
    assert following.retrieve(incoming(following), 1) == -ENODEV
    world.switch_off()


def test_retrieving_before_a_vfio_driver_is_bound_fails_for_good(world: DeviceWorld, following: Vmm) -> None:
    session = incoming(following)
    assert following.retrieve(session, 1) == -ENODEV
    following.take()
    assert following.retrieve(session, 1) == -ENODEV
    assert following.finish(session) == -EBUSY
    assert following.open_cdev(A) == -EBUSY
    following.close(session)
    assert world.logged("luo: Unable to finish session [vm] on release") == 1
    device = number(following.open_device())
    assert following.retrieve_session(device, b"vm") == -EINVAL
    assert following.open_cdev(A) == -EBUSY


def test_d18_before_bind_it_is_as_good_as_closed(following: Vmm) -> None:
    following.take()
    device = number(following.retrieve(incoming(following), 1))
    assert following.get_info(device) == -EINVAL
    assert following.pread(device, 0, 4) == -EINVAL
    assert following.pwrite(device, 0, b"0") == -EINVAL
    assert following.mmap(device, 0, 4096) == -EINVAL


def test_d18_finish_needs_it_retrieved_and_bound(following: Vmm) -> None:
    following.take()
    session = incoming(following)
    assert following.finish(session) == -EBUSY
    memory = number(following.retrieve(session, 2))
    assert following.finish(session) == -EBUSY
    device = number(following.retrieve(session, 1))
    assert following.finish(session) == -EBUSY
    number(following.bind(device, number(following.open("/dev/iommu"))))
    assert following.finish(session) == 0
    assert following.finish(session) == 0
    assert following.retrieve(session, 1) == -ENOENT
    assert following.get_info(device) == 0
    assert following.inode(memory).data == b"guest"


def test_e5_finish_is_all_or_nothing_over_the_session(following: Vmm) -> None:
    following.take()
    session = incoming(following)
    number(following.retrieve(session, 2))
    assert following.finish(session) == -EBUSY
    # The memfd is still the session's.
    assert number(following.retrieve(session, 2))
    number(following.retrieve(session, 1))
    assert following.finish(session) == -EBUSY


def test_the_fd_of_the_device_may_be_closed_once_it_was_bound(following: Vmm) -> None:
    following.take()
    session = incoming(following)
    device, iommu = number(following.retrieve(session, 1)), number(following.open("/dev/iommu"))
    number(following.bind(device, iommu))
    following.close(device)
    again = number(following.retrieve(session, 1))
    assert following.get_info(again) == 0
    following.close(again)
    assert following.finish(session) == 0
    assert number(following.opened()[0])


def test_d19_until_finish_it_cannot_be_opened_another_way(world: DeviceWorld, following: Vmm) -> None:
    following.take()
    session = incoming(following)

    def both_refuse(code: int) -> bool:
        group, container = number(following.open("/dev/vfio/1")), number(following.open("/dev/vfio/vfio"))
        assert following.set_container(group, container) == 0
        assert following.ioctl(container, uapi.VFIO_SET_IOMMU, uapi.VFIO_TYPE1v2_IOMMU) == 0
        answers = following.get_device(group, A), following.open_cdev(A)
        following.close(group)
        following.close(container)
        return answers == (code, code)

    assert both_refuse(-EBUSY)
    device = number(following.retrieve(session, 1))
    assert both_refuse(-EBUSY)
    number(following.bind(device, number(following.open("/dev/iommu"))))
    assert following.open_cdev(A) == -EBUSY
    assert following.open("/dev/vfio/1") == -EBUSY
    assert following.finish(session) == 0
    assert number(following.open_cdev(A))
    following.close(device)
    assert not world.vfio.functions[0].carriage.incoming


def test_d19_another_device_is_not_meant(following: Vmm) -> None:
    following.take()
    assert number(following.opened(B)[0])


def test_closing_the_session_finishes_a_bound_device(following: Vmm) -> None:
    following.take()
    session = incoming(following)
    device = number(following.retrieve(session, 1))
    number(following.bind(device, number(following.open("/dev/iommu"))))
    following.close(session)
    assert number(following.open_cdev(A))


def test_a_retrieved_device_is_busy_for_preserve_until_it_is_finished(following: Vmm) -> None:
    following.take()
    session = incoming(following)
    device = number(following.retrieve(session, 1))
    number(following.bind(device, number(following.open("/dev/iommu"))))
    outgoing = session_for(following)
    assert following.preserve(outgoing, device, 1) == -EBUSY
    assert following.finish(session) == 0
    assert following.preserve(outgoing, device, 1) == 0


def test_a_device_goes_through_many_updates(world: DeviceWorld, vmm: Vmm) -> None:
    device, _ = vmm.opened()
    assert vmm.preserve(session_for(vmm), device, 1) == 0
    for _ in range(4):
        vmm = world.jump(vmm)
        vmm.take()
        session = incoming(vmm)
        device, iommu = number(vmm.retrieve(session, 1)), number(vmm.open("/dev/iommu"))
        number(vmm.bind(device, iommu))
        assert vmm.finish(session) == 0
        assert vmm.preserve(session_for(vmm), device, 1) == 0


def test_e7_an_unfinished_device_is_not_carried_over_the_next_jump(world: DeviceWorld, following: Vmm) -> None:
    third = world.jump(following)
    third.take()
    device = number(third.open_device())
    assert third.retrieve_session(device, b"vm") == -ENOENT
    assert number(third.open_cdev(A))


@pytest.mark.parametrize("retrieved", [False, True])
def test_unbinding_an_incoming_device_waits_once_it_is_retrieved(following: Vmm, retrieved: bool) -> None:
    following.take()
    session = incoming(following)
    if not retrieved:
        assert following.echo(A, "bus/pci/drivers/vfio-pci/unbind") == len(A) + 1
        following.take(A)
        assert number(following.retrieve(session, 1))
        return
    device, iommu = number(following.retrieve(session, 1)), number(following.open("/dev/iommu"))
    number(following.bind(device, iommu))
    following.close(device)
    waiting = following.echo(A, "bus/pci/drivers/vfio-pci/unbind")
    assert done(waiting) is None
    assert following.finish(session) == 0
    assert done(waiting) == 0


def test_a_retrieved_device_that_must_be_reset_cannot_be_bound_while_an_unbind_waits(
    following: Vmm, rules: str
) -> None:
    following.take()
    session = incoming(following)
    device, iommu = number(following.retrieve(session, 1)), number(following.open("/dev/iommu"))
    following.echo(A, "bus/pci/drivers/vfio-pci/unbind")
    assert following.bind(device, iommu) == {"v2": 1, "v5": -EAGAIN}[rules]
    assert following.finish(session) == {"v2": 0, "v5": -EBUSY}[rules]


def test_what_is_asked_of_a_device_that_is_being_unbound_waits_behind_it(following: Vmm) -> None:
    following.take()
    session = incoming(following)
    device, iommu = number(following.retrieve(session, 1)), number(following.open("/dev/iommu"))
    number(following.bind(device, iommu))
    following.close(device)
    waiting = following.echo(A, "bus/pci/drivers/vfio-pci/unbind")
    following.retrieve(session, 1)
    bind = following.echo(A, "bus/pci/drivers/vfio-pci/bind")
    again = following.echo(A, "bus/pci/drivers/vfio-pci/unbind")
    assert [done(each) for each in (waiting, bind, again)] == [None] * 3
    following.die()
    assert done(waiting) == 0
    assert done(bind) == 0
    assert done(again) == 0
    assert not following.exists(f"bus/pci/devices/{A}/driver")


def test_retrieving_while_it_is_being_unbound_fails(following: Vmm) -> None:
    following.take()
    session = incoming(following)
    assert following.echo("1", f"bus/pci/devices/{A}/remove") == 2
    assert following.retrieve(session, 1) == -ENODEV


def test_a_device_removed_and_found_again_is_still_incoming(following: Vmm) -> None:
    following.take()
    assert following.echo("1", f"bus/pci/devices/{A}/remove") == 2
    assert following.echo("1", "bus/pci/rescan") == 2
    following.take(A)
    assert following.open_cdev(A) == -EBUSY
    assert number(following.retrieve(incoming(following), 1))


def test_first_enable_after_the_jump(world: DeviceWorld, following: Vmm, rules: str) -> None:
    """v2 trusts the reset of the freeze, v5 resets once more."""
    following.take()
    device = number(following.retrieve(incoming(following), 1))
    world.bar(A).write(registers.SCRATCH, b"glitched")
    number(following.bind(device, number(following.open("/dev/iommu"))))
    assert following.pread(device, registers.SCRATCH, 8) == {"v2": b"glitched", "v5": bytes(8)}[rules]


def test_bus_numbers_are_kept_for_a_device_that_came_along(rules: str) -> None:
    address = "0000:05:00.0"
    line = b"liveupdate=on kho=on pci=assign-busses\0"
    world = power_on(address, rules=rules)
    vmm = Vmm(world)
    vmm.take(address)
    device, _ = vmm.opened(address)
    session = session_for(vmm)
    assert vmm.preserve(session, device, 1) == 0
    following = world.jump(vmm, command_line=line)
    following.take(address)
    assert number(following.retrieve(incoming(following), 1))
    third = world.jump(following, command_line=line)
    assert third.listing("bus/pci/devices") == ("0000:00:01.0", "0000:01:00.0")
    assert third.show("bus/pci/devices/0000:00:01.0/secondary_bus_number") == "1\n"
    world.switch_off()


@pytest.mark.parametrize("how", ["image", "switch"])
def test_h20_a_next_kernel_without_the_handler_answers_eio_for_good(rules: str, how: str) -> None:
    world = power_on(rules=rules, without_handler=frozenset({2}) if how == "switch" else frozenset())
    vmm = Vmm(world)
    vmm.take()
    session = session_for(vmm)
    assert vmm.preserve(session, vmm.opened()[0], 1) == 0
    assert vmm.preserve(session, vmm.memfd(b"lost"), 2) == 0
    following = world.jump(vmm, image=bzimage(*FORMATS) if how == "image" else IMAGE)
    for _ in range(2):
        assert following.open_device() == -EIO
    following.take()
    assert following.open_device() == -EIO
    assert number(following.opened()[0])
    third = world.jump(following)
    assert number(third.open_device())
    world.switch_off()


def test_h20_without_a_device_in_a_session_such_a_kernel_is_fine(rules: str) -> None:
    world = power_on(rules=rules, without_handler=frozenset({2}))
    vmm = Vmm(world)
    assert vmm.preserve(session_for(vmm), vmm.memfd(b"guest"), 1) == 0
    following = world.jump(vmm)
    assert number(following.retrieve(incoming(following), 1))
    world.switch_off()


def test_profile_document_and_devices(rules: str) -> None:
    world = power_on(rules=rules, profile=Profile.DOCUMENT)
    vmm = Vmm(world)
    vmm.take()
    device, _ = vmm.opened()
    session = session_for(vmm)
    assert vmm.preserve(session, device, 1) == 0
    assert vmm.unpreserve(session, 1) == 0
    assert vmm.preserve(session, device, 2) == 0
    following = world.jump(vmm)
    following.take()
    session = incoming(following)
    device = number(following.retrieve(session, 2))
    number(following.bind(device, number(following.open("/dev/iommu"))))
    assert following.finish(session) == 0
    world.switch_off()


def test_a_device_that_was_not_preserved_loses_bus_mastering_over_the_jump(world: DeviceWorld, vmm: Vmm) -> None:
    for address in (A, B):
        device, _ = vmm.opened(address)
        vmm.set_config(device, 4, 0x0006)
    before = [place.device.config.command for place in world.bus.places]
    assert before == [6, 6]
    following = world.jump(vmm)
    assert [place.device.config.command for place in world.bus.places] == [2, 2]
    assert [int(following.show(f"bus/pci/devices/{each}/enable")) for each in (A, B)] == [1, 1]


def test_after_the_jump_was_taken_calls_on_devices_sleep(world: DeviceWorld, vmm: Vmm) -> None:
    device, _ = vmm.opened()
    assert world.load().reboot() == Jump()
    assert not isinstance(vmm.get_info(device), int)
    vmm.close(device)


def test_a_device_preserved_and_retrieved_by_another_process(world: DeviceWorld, vmm: Vmm) -> None:
    """D03: the session's fd may be passed on, and each holder may preserve."""
    device, _ = vmm.opened()
    keeper = Vmm(world)
    session = vmm.send(session_for(vmm), keeper)
    theirs = vmm.send(device, keeper)
    assert keeper.preserve(session, theirs, 1) == 0
    vmm.die()
    assert keeper.get_info(theirs) == 0
