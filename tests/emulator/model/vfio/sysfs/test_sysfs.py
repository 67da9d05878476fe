"""Devices in /sys, and writes to its files: binding drivers, ids, overrides, reset, hot unplug."""

from __future__ import annotations

from errno import EBUSY, EEXIST, EFBIG, EINVAL, EIO, EISDIR, ENODEV, ENOENT, ENOTTY, ERANGE

import pytest

from luod.emulator.model.ports import Errno
from luod.emulator.model.results import Waiting
from luod.emulator.model.vfio.sysfs.sysfs import Attribute, Directory, Link
from tests.emulator.model.vfio.machine import A, B, DeviceWorld, Vmm, done, power_on
from tests.emulator.model.world import number

DEVICES = "bus/pci/devices"
VFIO_PCI = "bus/pci/drivers/vfio-pci"


@pytest.fixture
def rules() -> str:
    return "v2"


@pytest.fixture
def root(world: DeviceWorld) -> Vmm:
    """Returns a process of root. No device is bound yet."""
    return Vmm(world)


def test_every_name_in_a_directory_is_there_and_no_other(world: DeviceWorld, vmm: Vmm) -> None:
    sysfs = world.vfio.sysfs
    seen, directories = 0, [""]
    while directories:
        directory = directories.pop()
        node = sysfs.lookup(directory)
        assert isinstance(node, Directory)
        assert len(set(node.names)) == len(node.names)
        for name in node.names:
            path = f"{directory}/{name}".lstrip("/")
            found = sysfs.lookup(path)
            seen += 1
            if isinstance(found, Directory):
                directories.append(path)
            elif isinstance(found, Link):
                assert isinstance(sysfs.lookup(vmm.resolve(path)), Directory), path
            elif found.read is not None:
                assert isinstance(sysfs.read(path), bytes)
            else:
                assert found.mode == 0o200
    assert seen > 80
    for path in ("devices/none", "bus/pci/devices/0000:09:00.0", "/", "bus/"):
        with pytest.raises(Errno) as failure:
            sysfs.lookup(path)
        assert failure.value.code == ENOENT


def test_a_device_as_programs_look_at_it() -> None:
    world = power_on("0000:01:00.0,vendor=0x8086,device=0x10d3,class=0x020000,group=9,bars=16K+1M")
    vmm = Vmm(world)
    vmm.take(A)
    device = f"{DEVICES}/{A}"
    assert vmm.resolve(device) == f"devices/pci0000:00/0000:00:01.0/{A}"
    shown = {name: vmm.show(f"{device}/{name}").strip() for name in ("vendor", "device", "class", "revision", "enable")}
    assert shown == {"vendor": "0x8086", "device": "0x10d3", "class": "0x020000", "revision": "0x01", "enable": "0"}
    assert vmm.resolve(f"{device}/iommu_group") == "kernel/iommu_groups/9"
    assert vmm.listing("kernel/iommu_groups/9/devices") == (A,)
    assert vmm.resolve(f"kernel/iommu_groups/9/devices/{A}") == vmm.resolve(device)
    assert vmm.resolve(f"{device}/driver") == VFIO_PCI
    assert vmm.resolve(f"{VFIO_PCI}/{A}") == vmm.resolve(device)
    assert vmm.listing(f"{device}/vfio-dev") == ("vfio0",)
    assert vmm.show(f"{device}/vfio-dev/vfio0/dev").endswith(":0\n")
    assert vmm.resolve("class/vfio-dev/vfio0") == f"{vmm.resolve(device)}/vfio-dev/vfio0"
    first, second, third, *_ = vmm.show(f"{device}/resource").splitlines()
    assert [int(word, 16) for word in first.split()] == [0xC0000000, 0xC0003FFF, 0x40200]
    assert [int(word, 16) for word in second.split()] == [0xC0100000, 0xC01FFFFF, 0x40200]
    assert set(third.split()) == {"0x0000000000000000"}
    assert "PCI_ID=8086:10D3\n" in vmm.show(f"{device}/uevent")
    assert "DRIVER=vfio-pci\n" in vmm.show(f"{device}/uevent")
    assert vmm.show(f"{device}/modalias") == "pci:v00008086d000010D3sv00008086sd000010D3bc02sc00i00\n"
    assert len(world.vfio.sysfs.read(f"{vmm.resolve(device)}/config")) == 4096
    world.switch_off()


def test_binding_needs_an_override_or_an_id(root: Vmm) -> None:
    assert root.echo(A, f"{VFIO_PCI}/bind") == -ENODEV
    assert root.echo("0000:09:00.0", f"{VFIO_PCI}/bind") == -ENODEV
    assert root.echo("nvme", f"{DEVICES}/{A}/driver_override") == 5
    assert root.echo(A, f"{VFIO_PCI}/bind") == -ENODEV
    assert root.echo("vfio-pci", f"{DEVICES}/{A}/driver_override") == 9
    assert root.show(f"{DEVICES}/{A}/driver_override") == "vfio-pci\n"
    assert root.echo(A, f"{VFIO_PCI}/bind") == 13
    assert root.echo(A, f"{VFIO_PCI}/bind") == -EBUSY
    assert root.echo(A, f"{VFIO_PCI}/unbind") == 13
    assert root.echo(A, f"{VFIO_PCI}/unbind") == -ENODEV
    assert root.echo("", f"{DEVICES}/{A}/driver_override") == 1
    assert root.show(f"{DEVICES}/{A}/driver_override") == "(null)\n"
    assert root.echo("x" * 4094, f"{DEVICES}/{A}/driver_override") == -EINVAL
    assert root.echo("x" + "\0" * 4093, f"{DEVICES}/{A}/driver_override") == -EINVAL, "by what was written"
    assert root.echo("x" + "\0" * 4092, f"{DEVICES}/{A}/driver_override") == 4094
    assert root.show(f"{DEVICES}/{A}/driver_override") == "x\n"
    assert root.echo("x" * 4093, f"{DEVICES}/{A}/driver_override") == 4094


def test_an_override_is_the_bytes_of_the_first_line(root: Vmm) -> None:
    override = f"{DEVICES}/{A}/driver_override"
    assert root.echo("n\xe4me\nvfio-pci", override) == 15
    assert root.world.vfio.sysfs.read(root.resolve(override)) == "n\xe4me\n".encode()
    assert root.echo("\nvfio-pci", override) == 10
    assert root.show(override) == "(null)\n"


def test_new_id_takes_every_device_of_that_kind(root: Vmm) -> None:
    for words in ("", "1af4", "x y", "1af4 -1", "1_0 1_0"):
        assert root.echo(words, f"{VFIO_PCI}/new_id") == -EINVAL
    assert root.echo("0x1234 5678 and more", f"{VFIO_PCI}/new_id") == 21
    assert root.echo("1234 5678", f"{VFIO_PCI}/remove_id") == 10
    assert root.echo("1af4 10f0", f"{VFIO_PCI}/new_id") == 10
    assert root.echo("1af4 10f0", f"{VFIO_PCI}/new_id") == -EEXIST
    for address in (A, B):
        assert root.resolve(f"{DEVICES}/{address}/driver") == VFIO_PCI
        assert root.echo(address, f"{VFIO_PCI}/unbind") == 13
        assert root.echo(address, f"{VFIO_PCI}/bind") == 13
    assert root.echo("1af4 10f0", f"{VFIO_PCI}/remove_id") == 10
    assert root.echo("1af4 10f0", f"{VFIO_PCI}/remove_id") == -ENODEV
    assert root.exists(f"{DEVICES}/{A}/driver")
    assert root.echo(A, f"{VFIO_PCI}/unbind") == 13
    assert root.echo(A, f"{VFIO_PCI}/bind") == -ENODEV


def test_drivers_probe(root: Vmm) -> None:
    assert root.echo("nothing", "bus/pci/drivers_probe") == -ENODEV
    assert root.echo(A, "bus/pci/drivers_probe") == 13
    assert not root.exists(f"{DEVICES}/{A}/driver")
    number(root.echo("vfio-pci", f"{DEVICES}/{A}/driver_override"))
    assert root.echo(A, "bus/pci/drivers_probe") == 13
    assert root.resolve(f"{DEVICES}/{A}/driver") == VFIO_PCI


def test_a_driver_of_the_kernel_takes_its_device_at_boot_and_gives_way() -> None:
    world = power_on(f"{A},driver=nvme", B)
    root = Vmm(world)
    assert root.resolve(f"{DEVICES}/{A}/driver") == "bus/pci/drivers/nvme"
    assert not root.exists(f"{DEVICES}/{B}/driver")
    assert world.vfio.nodes() == ("/dev/iommu", "/dev/vfio/vfio")
    root.take(A)
    assert root.resolve(f"{DEVICES}/{A}/driver") == VFIO_PCI
    assert world.vfio.nodes()[2:] == ("/dev/vfio/1", "/dev/vfio/devices/vfio0")
    world.switch_off()


def test_ids_on_the_command_line() -> None:
    world = power_on(command_line="vfio-pci.ids=1af4:10f0,bad,8086:10d3")
    root = Vmm(world)
    assert root.resolve(f"{DEVICES}/{A}/driver") == VFIO_PCI
    assert world.logged('invalid id string "bad"') == 1
    assert number(root.opened()[0])
    world.switch_off()


def test_the_first_driver_that_wants_a_device_keeps_it() -> None:
    world = power_on(f"{A},driver=nvme", command_line="vfio-pci.ids=1af4:10f0")
    root = Vmm(world)
    assert root.resolve(f"{DEVICES}/{A}/driver") == VFIO_PCI
    assert number(root.opened()[0])
    world.switch_off()


def test_uevent_names_the_driver_while_there_is_one(vmm: Vmm) -> None:
    device = number(vmm.open_cdev(A))
    uevent = f"{DEVICES}/{A}/uevent"
    assert "DRIVER=" in vmm.show(uevent)
    waiting = vmm.echo(A, f"{VFIO_PCI}/unbind")
    assert "DRIVER=" not in vmm.show(uevent)
    vmm.close(device)
    assert done(waiting) == 0
    assert "DRIVER=" not in vmm.show(uevent)


def test_indices_are_given_again(world: DeviceWorld, vmm: Vmm) -> None:
    assert vmm.listing(f"{DEVICES}/{B}/vfio-dev") == ("vfio1",)
    assert vmm.echo(A, f"{VFIO_PCI}/unbind") == 13
    assert vmm.echo(B, f"{VFIO_PCI}/unbind") == 13
    vmm.take(B)
    assert vmm.listing(f"{DEVICES}/{B}/vfio-dev") == ("vfio0",)
    assert world.vfio.nodes()[2:] == ("/dev/vfio/2", "/dev/vfio/devices/vfio0")


def test_reset(world: DeviceWorld, root: Vmm) -> None:
    world.bar(A).write(0x38, b"12345678")
    assert root.echo("0", f"{DEVICES}/{A}/reset") == -EINVAL
    assert root.echo("now", f"{DEVICES}/{A}/reset") == -EINVAL
    assert root.echo("0_1", f"{DEVICES}/{A}/reset") == -EINVAL
    assert root.echo("-1", f"{DEVICES}/{A}/remove") == -EINVAL
    assert root.echo("1", f"{DEVICES}/{A}/reset") == 2
    assert world.bar(A).read(0x38, 8) == bytes(8)


def test_a_device_that_cannot_be_reset_has_no_such_file() -> None:
    world = power_on(f"{A},reset=none")
    assert not Vmm(world).exists(f"{DEVICES}/{A}/reset")
    with pytest.raises(Errno) as failure:
        world.bus.places[0].device.reset()
    assert failure.value.code == ENOTTY
    world.switch_off()


def test_hot_unplug_and_rescan(world: DeviceWorld, root: Vmm) -> None:
    assert root.echo("0", f"{DEVICES}/{A}/remove") == 2
    assert root.exists(f"{DEVICES}/{A}")
    assert root.echo("1", f"{DEVICES}/{A}/remove") == 2
    assert not root.exists(f"{DEVICES}/{A}")
    assert root.echo(A, f"{VFIO_PCI}/bind") == -ENODEV
    assert root.echo("1", "bus/pci/rescan") == 2
    root.take(A)
    assert number(root.opened()[0])


def test_the_tree_changes_with_the_drivers(world: DeviceWorld, root: Vmm) -> None:
    def paths(directory: str = "") -> set[str]:
        node = world.vfio.sysfs.lookup(directory)
        if not isinstance(node, Directory):
            return {directory}
        found = (paths(f"{directory}/{name}".lstrip("/")) for name in node.names)
        return {directory}.union(*found)

    before = paths()
    root.take(A)
    top = root.resolve(f"{DEVICES}/{A}")
    vfio = f"{top}/vfio-dev"
    assert paths() - before == {
        vfio,
        f"{vfio}/vfio0",
        *(f"{vfio}/vfio0/{name}" for name in ("dev", "device", "subsystem")),
        "class/vfio-dev/vfio0",
        f"{top}/driver",
        f"{VFIO_PCI}/{A}",
    }
    assert root.echo(A, f"{VFIO_PCI}/unbind") == 13
    assert paths() == before
    assert root.echo("1", f"{DEVICES}/{A}/remove") == 2
    assert {path for path in paths() if A in path} == set()
    assert root.echo("1", "bus/pci/rescan") == 2
    assert paths() == before


def test_what_cannot_be_read_or_written(world: DeviceWorld, root: Vmm) -> None:
    sysfs = world.vfio.sysfs
    for path, code in ((f"{VFIO_PCI}/bind", EIO), ("bus/pci", EISDIR), (f"{DEVICES}/{A}", EINVAL), ("nothing", ENOENT)):
        with pytest.raises(Errno) as failure:
            sysfs.read(path)
        assert failure.value.code == code
    for path, code in (("bus/pci/drivers_autoprobe", EIO), ("bus/pci", EISDIR), ("nothing", ENOENT)):
        with pytest.raises(Errno) as failure:
            sysfs.write(path, b"1")
        assert failure.value.code == code
    assert isinstance(sysfs.lookup("bus/pci/drivers_probe"), Attribute)


def test_bridges_have_the_driver_that_bridges_have(root: Vmm) -> None:
    assert root.listing(DEVICES) == ("0000:00:01.0", "0000:00:02.0", A, B)
    assert root.resolve(f"{DEVICES}/0000:00:02.0/driver") == "bus/pci/drivers/pcieport"
    assert root.show(f"{DEVICES}/0000:00:02.0/secondary_bus_number") == "2\n"


def test_configuration_space_is_written_as_setpci_does(world: DeviceWorld, root: Vmm) -> None:
    root.take(A)
    device, _ = root.opened()
    config = root.resolve(f"{DEVICES}/{A}/config")
    assert world.vfio.sysfs.write(config, b"\x06\x00", 4) == 2
    assert root.config(device, 4) == 0x0006
    assert world.vfio.sysfs.write(config, b"\xff\xff", 4095) == 1, "as far as it goes"
    assert world.vfio.sysfs.write(config, b"\xff") == 1
    assert root.config(device, 0) == 0x1AF4, "what is read only stays"
    with pytest.raises(Errno) as failure:
        world.vfio.sysfs.write(config, b"\xff", 4097)
    assert failure.value.code == EFBIG
    root.pwrite(device, 0x38, b"\5")
    world.vfio.sysfs.write(config, b"\x10\xa8", 0x68)
    assert root.pread(device, 0x38, 1) == b"\0", "the bit that resets it"


def test_bridges_have_a_configuration_space_as_lspci_reads_it(world: DeviceWorld, root: Vmm) -> None:
    config = world.vfio.sysfs.read(root.resolve(f"{DEVICES}/0000:00:02.0/config"))
    assert config[0:4] == bytes.fromhex("361b0c00")
    assert config[0x09:0x0F] == bytes.fromhex("000406000001")
    assert tuple(config[0x18:0x1B]) == (0, 2, 2), "buses"
    assert config[config[0x34]] == 0x10, "PCI Express"
    assert root.show(f"{DEVICES}/0000:00:02.0/resource").count("\n") == 17


def test_virtual_functions() -> None:
    virtual = "0000:01:00.1"
    world = power_on(A, f"{virtual},vf-of={A}")
    root = Vmm(world)
    assert root.resolve(f"{DEVICES}/{virtual}/physfn") == root.resolve(f"{DEVICES}/{A}")
    assert root.resolve(f"{DEVICES}/{A}/virtfn0") == root.resolve(f"{DEVICES}/{virtual}")
    assert root.show(f"{DEVICES}/{A}/sriov_numvfs") == "1\n"
    assert not root.exists(f"{DEVICES}/{virtual}/sriov_numvfs")
    world.switch_off()


def test_virtual_functions_come_and_go() -> None:
    first, second = "0000:01:00.1", "0000:01:00.2"
    world = power_on(A, f"{first},vf-of={A}", f"{second},vf-of={A}")
    root = Vmm(world)
    count = f"{DEVICES}/{A}/sriov_numvfs"
    assert root.echo("2", count) == 2, "as it is: no driver is asked"
    assert root.echo("0", count) == 2, "nor for those that no driver has made"
    assert root.echo("2", count) == -ENOENT
    root.take(A)
    assert root.echo("2", count) == 2
    assert root.echo("1", count) == -EBUSY
    assert root.echo("3", count) == -ERANGE
    assert root.echo("many", count) == -EINVAL
    assert root.echo("0o0", count) == -EINVAL
    assert root.echo("0200000", count) == -EINVAL, "octal, more than 16 bits"
    assert root.echo("9" * 5000, count) == -EINVAL
    assert root.echo(str(1 << 64), f"{DEVICES}/{A}/remove") == -EINVAL
    assert root.echo("0", count) == 2
    assert root.show(count) == "0\n"
    assert not root.exists(f"{DEVICES}/{first}")
    assert not root.exists(f"{DEVICES}/{A}/virtfn0")
    assert root.echo("1", "bus/pci/rescan") == 2
    assert not root.exists(f"{DEVICES}/{first}")
    assert root.echo("1", count) == 2
    assert root.resolve(f"{DEVICES}/{A}/virtfn0") == root.resolve(f"{DEVICES}/{first}")
    assert not root.exists(f"{DEVICES}/{second}")
    assert root.show(f"{DEVICES}/{A}/sriov_totalvfs") == "2\n"
    assert root.resolve(f"{DEVICES}/{first}/driver") == VFIO_PCI, "its physical function's"
    world.switch_off()


def test_virtual_functions_go_when_nobody_has_them_open() -> None:
    first, second = "0000:01:00.1", "0000:01:00.2"
    world = power_on(A, f"{first},vf-of={A}", f"{second},vf-of={A}")
    root = Vmm(world)
    count = f"{DEVICES}/{A}/sriov_numvfs"
    root.take(A)
    assert (root.echo("0", count), root.echo("2", count)) == (2, 2)
    files = [number(root.open_cdev(address)) for address in (first, second)]
    waiting = root.echo("0", count)
    assert isinstance(waiting, Waiting)
    for file in files:
        assert waiting.poll() is None
        root.close(file)
    assert waiting.poll() == 0
    assert root.show(count) == "0\n"
    world.switch_off()


def test_virtual_functions_go_with_their_physical_one() -> None:
    virtual = "0000:01:00.1"
    world = power_on(A, f"{virtual},vf-of={A}")
    root = Vmm(world)
    root.take(A, virtual)
    file = number(root.open_cdev(virtual))
    waiting = root.echo(A, f"{VFIO_PCI}/unbind")
    assert done(waiting) is None
    assert not root.exists(f"{DEVICES}/{A}/driver")
    assert root.exists(f"{DEVICES}/{virtual}")
    root.close(file)
    assert done(waiting) == 0
    assert not root.exists(f"{DEVICES}/{virtual}")
    root.take(A)
    assert root.echo("1", f"{DEVICES}/{A}/sriov_numvfs") == 2
    assert root.echo("1", f"{DEVICES}/{A}/remove") == 2
    assert root.listing(DEVICES) == ("0000:00:01.0",)
    world.switch_off()


# Requests for a device whose files an unbind waits for.


@pytest.fixture
def held(vmm: Vmm) -> int:
    """Returns an open file of device A."""
    return vmm.opened(A)[0]


def test_the_file_of_a_removal_is_gone_while_it_waits(vmm: Vmm, held: int) -> None:
    remove = f"{DEVICES}/{A}/remove"
    assert vmm.echo("0", remove) == 2
    waiting = vmm.echo("1", remove)
    assert done(waiting) is None
    assert not vmm.exists(remove)
    vmm.close(held)
    assert done(waiting) == 0
    assert not vmm.exists(f"{DEVICES}/{A}")
    assert vmm.echo("1", "bus/pci/rescan") == 2
    assert vmm.exists(remove)
    vmm.take(A)
    assert number(vmm.opened(A)[0])


@pytest.mark.parametrize("first", ["remove", "sriov_numvfs"])
def test_a_virtual_function_is_removed_once_by_two_requests(first: str) -> None:
    virtual = "0000:01:00.1"
    world = power_on(A, f"{virtual},vf-of={A}")
    root = Vmm(world)
    root.take(A, virtual)
    file = number(root.open_cdev(virtual))
    requests = [("1", f"{DEVICES}/{virtual}/remove"), ("0", f"{DEVICES}/{A}/sriov_numvfs")]
    waiting = [root.echo(*request) for request in (requests if first == "remove" else reversed(requests))]
    assert [done(each) for each in waiting] == [None, None]
    root.close(file)
    assert [done(each) for each in waiting] == [0, 0]
    assert root.show(f"{DEVICES}/{A}/sriov_numvfs") == "0\n"
    world.switch_off()


def test_virtual_functions_that_left_meanwhile_are_passed_over() -> None:
    first, second = "0000:01:00.1", "0000:01:00.2"
    world = power_on(A, f"{first},vf-of={A}", f"{second},vf-of={A}")
    root = Vmm(world)
    root.take(A, first)
    file = number(root.open_cdev(first))
    waiting = root.echo("0", f"{DEVICES}/{A}/sriov_numvfs")
    assert root.echo("1", f"{DEVICES}/{second}/remove") == 2
    assert done(waiting) is None
    root.close(file)
    assert done(waiting) == 0
    world.switch_off()


def test_no_driver_binds_to_a_device_that_was_removed_meanwhile(vmm: Vmm, held: int) -> None:
    remove = vmm.echo("1", f"{DEVICES}/{A}/remove")
    bind = vmm.echo(A, f"{VFIO_PCI}/bind")
    vmm.close(held)
    assert (done(remove), done(bind)) == (0, -ENODEV)


def test_a_device_that_is_bound_between_its_unbind_and_its_removal_is_unbound_once_more(vmm: Vmm, held: int) -> None:
    bind = [vmm.echo(A, f"{VFIO_PCI}/unbind"), vmm.echo(A, f"{VFIO_PCI}/bind")]
    remove = vmm.echo("1", f"{DEVICES}/{A}/remove")
    vmm.close(held)
    assert [done(each) for each in (*bind, remove)] == [0, 0, 0]
    assert not vmm.exists(f"{DEVICES}/{A}")


def test_a_second_unbind_waits_and_succeeds(vmm: Vmm, held: int) -> None:
    unbinds = [vmm.echo(A, f"{VFIO_PCI}/unbind") for _ in range(2)]
    assert [done(each) for each in unbinds] == [None, None]
    vmm.close(held)
    assert [done(each) for each in unbinds] == [0, 0]


def test_a_reset_waits_for_the_unbind(world: DeviceWorld, vmm: Vmm, held: int) -> None:
    unbind = vmm.echo(A, f"{VFIO_PCI}/unbind")
    reset = vmm.echo("1", f"{DEVICES}/{A}/reset")
    world.bar(A).write(0x38, b"scratchy")
    assert done(reset) is None
    assert world.bar(A).read(0x38, 8) == b"scratchy"
    vmm.close(held)
    assert (done(unbind), done(reset)) == (0, 0)


def test_the_number_of_virtual_functions_waits_for_the_unbind() -> None:
    world = power_on(A, f"0000:01:00.1,vf-of={A}")
    root = Vmm(world)
    root.take(A)
    file = number(root.open_cdev(A))
    unbind = root.echo(A, f"{VFIO_PCI}/unbind")
    count = root.echo("1", f"{DEVICES}/{A}/sriov_numvfs")
    assert done(count) is None
    root.close(file)
    assert (done(unbind), done(count)) == (0, -ENOENT), "the unbind removed those that were there"
    world.switch_off()


def test_a_new_id_waits_for_the_unbind_and_binds_the_device_again(vmm: Vmm, held: int) -> None:
    assert vmm.echo("", f"{DEVICES}/{A}/driver_override") == 1
    unbind = vmm.echo(A, f"{VFIO_PCI}/unbind")
    identifier = vmm.echo("1af4 10f0", f"{VFIO_PCI}/new_id")
    assert done(identifier) is None
    vmm.close(held)
    assert (done(unbind), done(identifier)) == (0, 0)
    assert vmm.exists(f"{DEVICES}/{A}/driver")


def test_an_override_and_a_probe_do_not_wait_for_the_unbind(vmm: Vmm, held: int) -> None:
    waiting = vmm.echo(A, f"{VFIO_PCI}/unbind")
    assert vmm.echo("nvme", f"{DEVICES}/{A}/driver_override") == 5
    assert vmm.echo(A, "bus/pci/drivers_probe") == 13
    vmm.close(held)
    assert done(waiting) == 0


def test_a_group_can_be_opened_while_its_device_is_being_unbound(world: DeviceWorld, vmm: Vmm) -> None:
    file = number(vmm.open_cdev(A))
    waiting = vmm.echo(A, f"{VFIO_PCI}/unbind")
    group = number(vmm.open("/dev/vfio/1"))
    assert vmm.get_device(group, A) == -ENODEV
    assert vmm.open("/dev/vfio/devices/vfio0") == -ENOENT
    vmm.close(group)
    vmm.close(file)
    assert done(waiting) == 0
    assert vmm.open("/dev/vfio/1") == -ENOENT


def test_no_driver_of_the_kernel_binds_in_a_group_that_a_user_owns() -> None:
    world = power_on(f"{A},group=7", f"{B},group=7,driver=nvme")
    root = Vmm(world)
    root.take()
    assert number(root.opened(A)[0])
    assert root.echo(B, f"{VFIO_PCI}/unbind") == 13
    assert root.echo("", f"{DEVICES}/{B}/driver_override") == 1
    assert root.echo(B, "bus/pci/drivers_probe") == -EINVAL
    assert root.echo(B, "bus/pci/drivers/nvme/bind") == -EBUSY
    assert not root.exists(f"{DEVICES}/{B}/driver")
    world.switch_off()


def test_removes_and_rescans_take_turns() -> None:
    """What a real kernel does: tests/kernel/test_waiting_rescan.py."""
    world = power_on(A, B)
    root = Vmm(world)
    root.take(A)
    file = number(root.open_cdev(A))
    requests = [
        root.echo("1", f"{DEVICES}/{A}/remove"),
        root.echo("1", "bus/pci/rescan"),
        root.echo("1", f"{DEVICES}/{B}/remove"),
    ]
    for request in requests:
        assert isinstance(request, Waiting)
        assert request.poll() is None
    assert root.exists(f"{DEVICES}/{B}")
    root.close(file)
    for request in requests:
        assert isinstance(request, Waiting)
        assert request.poll() == 0
    assert root.exists(f"{DEVICES}/{A}")
    assert not root.exists(f"{DEVICES}/{B}")
    world.switch_off()
