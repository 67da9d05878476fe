"""/sys and /dev/vfio of a machine with devices: what is shown, and binding drivers by writing there."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable

import pytest

from luod.testing.tools import require_tool
from tests.emulator.machine.conftest import RunDevices

Run = Callable[..., "subprocess.CompletedProcess[str]"]

TWO = (
    "--vfio",
    "0000:01:00.0,vendor=0x8086,device=0x1572,group=3",
    "--vfio",
    "0000:02:00.0,driver=nvme,class=0x010802",
)


def test_sys_and_dev_show_the_devices_as_the_kernel_does(run_devices: RunDevices) -> None:
    source = """
        assert sorted(os.listdir("/sys/bus/pci/devices")) == [
            "0000:00:01.0", "0000:00:02.0", "0000:01:00.0", "0000:02:00.0"]
        read = lambda name, device=DEVICE: sysfs(device, name).read_text().strip()
        assert (read("vendor"), read("device"), read("class")) == ("0x8086", "0x1572", "0xff0000")
        assert read("class", "0000:02:00.0") == "0x010802"
        assert os.path.realpath(sysfs(DEVICE, "iommu_group")) == "/sys/kernel/iommu_groups/3"
        assert os.listdir("/sys/kernel/iommu_groups/3/devices") == [DEVICE]
        assert os.path.basename(os.readlink(sysfs("0000:02:00.0", "driver"))) == "nvme"
        assert not os.path.lexists(sysfs(DEVICE, "driver"))
        config = os.open(sysfs(DEVICE, "config"), os.O_RDONLY)
        assert os.pread(config, 4, 0) == bytes.fromhex("86807215") and os.pread(config, 9999, 4000)[96:] == b""
        assert sysfs(DEVICE, "resource").read_text().splitlines()[0].split()[0] == "0x00000000c0000000"
        assert sorted(os.listdir("/dev/vfio")) == ["vfio"]
        assert oct(os.stat("/sys/bus/pci/drivers/vfio-pci/bind").st_mode) == "0o100200"
        assert errno_of(open, sysfs(DEVICE, "nothing")) == errno.ENOENT
        assert errno_of(os.mkdir, sysfs(DEVICE, "new")) == errno.EPERM
        assert errno_of(open, sysfs(DEVICE, "new"), "w") == errno.EACCES
    """
    run_devices(source, *TWO)


def test_the_rest_of_sys_stays(run_devices: RunDevices) -> None:
    source = """
        assert os.path.exists("/sys/kernel/kexec_loaded") and os.path.isdir("/sys/devices/system/cpu")
        assert os.path.isdir("/sys/class/net") and os.listdir("/sys/class/vfio-dev") == []
        take()
        assert os.listdir("/sys/class/vfio-dev") == ["vfio0"]
        assert os.path.realpath("/sys/class/vfio-dev/vfio0").startswith("/sys/devices/pci0000:00/")
    """
    run_devices(source)


@pytest.mark.usefixtures("run_devices")
def test_tools_that_walk_trees(run_machine: Run) -> None:
    """find(1) refuses directories whose inode changes under it."""
    script = """
        set -e
        find /sys/bus/pci /sys/devices/pci0000:00 /dev/vfio -ls > /dev/null
        echo 0000:01:00.0 > /sys/bus/pci/drivers_probe
        echo vfio-pci > /sys/bus/pci/devices/0000:01:00.0/driver_override
        echo 0000:01:00.0 > /sys/bus/pci/drivers/vfio-pci/bind
        readlink /sys/bus/pci/devices/0000:01:00.0/driver
        ls /dev/vfio /dev/vfio/devices
        stat /dev/vfio/devices/vfio0 > /dev/null
        echo 0000:01:00.0 > /sys/bus/pci/drivers/vfio-pci/unbind
        ls /dev/vfio
    """
    done = run_machine(["sh", "-c", script], "--vfio", "0000:01:00.0")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [
        "../../../../bus/pci/drivers/vfio-pci",
        *("/dev/vfio:", "1", "devices", "vfio", "/dev/vfio/devices:", "vfio0"),
        "vfio",
    ]


def test_a_device_is_bound_by_new_id_by_bind_and_by_its_override(run_devices: RunDevices) -> None:
    source = """
        driver = Path("/sys/bus/pci/drivers/vfio-pci")
        write = lambda name, text: (driver / name).write_text(text)
        assert errno_of(write, "bind", DEVICE) == errno.ENODEV
        write("new_id", "8086 1572")
        assert os.path.exists("/dev/vfio/devices/vfio0") and os.path.exists("/dev/vfio/3")
        assert errno_of(write, "new_id", "8086 1572") == errno.EEXIST
        assert errno_of(write, "bind", DEVICE) != 0
        write("unbind", DEVICE)
        assert errno_of(write, "unbind", DEVICE) == errno.ENODEV
        assert os.listdir("/dev/vfio") == ["vfio"]
        write("bind", DEVICE + "\\n")
        assert open_device() > 0
        other = "0000:02:00.0"
        assert errno_of(write, "bind", other) != 0
        Path("/sys/bus/pci/drivers/nvme/unbind").write_text(other)
        assert take(other) == "/dev/vfio/devices/vfio1"
    """
    run_devices(source, *TWO)


def test_unbind_waits_for_the_last_file(run_devices: RunDevices) -> None:
    source = """
        file, context = os.open(take(), os.O_RDWR), open_iommufd()
        bind(file, context)
        second = open_device()
        asked = os.eventfd(0)
        listen(file, [asked], vfio.VFIO_PCI_REQ_IRQ_INDEX)
        unbind = Path("/sys/bus/pci/drivers/vfio-pci/unbind")
        ours, theirs = socket.socketpair()
        if os.fork() == 0:
            os.close(file); os.close(second); os.close(context)
            unbind.write_text(DEVICE)
            theirs.send(b"unbound")
            os._exit(0)
        assert os.eventfd_read(asked) == 1
        assert not os.path.exists("/dev/vfio/devices/vfio0")
        assert get_info(file)[2] == 9
        os.close(second)
        ours.setblocking(False)
        assert errno_of(ours.recv, 10) == errno.EAGAIN
        assert get_info(file)[2] == 9
        os.close(file)
        ours.setblocking(True)
        assert ours.recv(10) == b"unbound"
        os.wait()
        assert os.listdir("/dev/vfio") == ["vfio"]
        take()
        bind(open_device(), context)
    """
    run_devices(source)


def test_waiting_unbind_leaves_others_alone(run_devices: RunDevices) -> None:
    """Each write of its own: only what concerns the device waits."""
    source = """
        file = os.open(take(), os.O_RDWR)
        take("0000:02:00.0")
        asked = os.eventfd(0)
        bind(file, open_iommufd())
        listen(file, [asked], vfio.VFIO_PCI_REQ_IRQ_INDEX)
        unbind = Path("/sys/bus/pci/drivers/vfio-pci/unbind")
        thread = threading.Thread(target=unbind.write_text, args=(DEVICE,))
        thread.start()
        os.eventfd_read(asked)
        unbind.write_text("0000:02:00.0")
        assert thread.is_alive()
        os.close(file)
        thread.join()
    """
    run_devices(source, "--vfio", "0000:01:00.0", "--vfio", "0000:02:00.0")


@pytest.mark.usefixtures("run_devices")
def test_machine_ends_while_an_unbind_waits(run_machine: Run) -> None:
    source = """
        file = os.open(take(), os.O_RDWR)
        asked = os.eventfd(0)
        bind(file, open_iommufd())
        listen(file, [asked], vfio.VFIO_PCI_REQ_IRQ_INDEX)
        if os.fork() == 0:
            Path("/sys/bus/pci/drivers/vfio-pci/unbind").write_text(DEVICE)
        os.eventfd_read(asked)
        os._exit(3)
    """
    done = run_machine("from raw_vfio import *\n" + source.replace("\n        ", "\n"), "--vfio", "0000:01:00.0")
    assert done.returncode == 3, done.stderr


def test_a_device_is_reset_removed_and_found_again(run_devices: RunDevices) -> None:
    source = """
        file = os.open(take(), os.O_RDWR)
        bind(file, open_iommufd())
        os.pwrite(file, b"scratchy", SCRATCH)
        sysfs(DEVICE, "reset").write_text("1")
        assert os.pread(file, 8, SCRATCH) == bytes(8)
        os.close(file)
        sysfs(DEVICE, "remove").write_text("1")
        assert os.listdir("/sys/bus/pci/devices") == ["0000:00:01.0"]
        Path("/sys/bus/pci/rescan").write_text("1")
        assert sysfs(DEVICE, "vendor").read_text() == "0x1af4\\n"
    """
    run_devices(source)


def test_a_write_takes_a_page_of_text(run_devices: RunDevices) -> None:
    source = """
        def write(path, data):
            return os.write(os.open(path, os.O_WRONLY), data)
        assert write("/sys/bus/pci/rescan", b"0" + bytes(5000)) == 4096
        assert errno_of(write, sysfs(DEVICE, "remove"), b"9" * 5000) == errno.EINVAL
    """
    run_devices(source)


def test_the_modules_of_vfio_are_loaded(run_devices: RunDevices) -> None:
    before = set(os.listdir("/sys/module"))
    source = f"""
        assert set(os.listdir("/sys/module")) >= {before}
        for name in ("vfio", "vfio_pci", "vfio_pci_core", "vfio_iommu_type1", "iommufd"):
            assert Path("/sys/module", name, "initstate").read_text() == "live\\n"
    """
    run_devices(source)


def test_modprobe_of_vfio_succeeds(run_devices: RunDevices) -> None:
    modprobe = require_tool("modprobe", package="kmod")
    source = f"""
        import subprocess
        for name in ("vfio-pci", "vfio_pci", "vfio", "vfio_iommu_type1"):
            subprocess.run(["{modprobe}", name], check=True)
        assert subprocess.run(["{modprobe}", "-q", "no-such-module"]).returncode
    """
    run_devices(source)


def test_a_kexec_behind_an_unbind_follows_its_end(run_devices: RunDevices) -> None:
    """The whole of it: tests/kernel/test_waiting_reboot.py."""
    source = """
        import raw
        from luod.testing.waiting import eventually
        if raw.BOOT == 2:
            print("the next boot")
            sys.exit()
        file, asked = os.open(take(), os.O_RDWR), os.eventfd(0)
        bind(file, open_iommufd())
        listen(file, [asked], vfio.VFIO_PCI_REQ_IRQ_INDEX)
        raw.load()
        threading.Thread(target=sysfs(DEVICE, "driver/unbind").write_text, args=(DEVICE,), daemon=True).start()
        os.eventfd_read(asked)
        threading.Thread(target=raw.reboot, args=(0x45584543,), daemon=True).start()
        eventually(lambda: errno_of(raw.load) == errno.EBUSY, describe="the kexec has begun")
        assert get_info(file)[2] == 9
        print("this boot", flush=True)
        os.close(file)
        signal.pause()
    """
    assert run_devices(source) == "this boot\nthe next boot\n"
