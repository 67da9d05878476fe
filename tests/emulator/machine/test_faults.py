"""A fault of luoemu itself: it is reported at once, and ends the machine. The fault is put into the model."""

from __future__ import annotations

import subprocess

import pytest

from luod.emulator.machine.machine import FAILED
from tests.emulator.machine.conftest import DEVICE, RunDevices, environment, interpreter, python

_FAULTY = """
import sys
from luod.emulator.machine.main import main
from luod.emulator.model.kernel import Kernel
from luod.emulator.model.vfio.vfio import Vfio

def fails(*_):
    raise ZeroDivisionError("the model's fault")

{call} = fails
sys.exit(main(["run", *sys.argv[1:]]))
"""
_SECONDS = 60


def run_with_fault(call: str, source: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Runs a machine whose model raises in `call`."""
    command = [interpreter(None).executable, "-c", _FAULTY.format(call=call), *options, "--", *python(source)]
    return subprocess.run(
        command,
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=_SECONDS,
    )


def assert_reported(done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == FAILED, done.stderr
    assert "Traceback" in done.stderr
    assert done.stderr.count("ZeroDivisionError: the model's fault\n") == 1
    assert done.stderr.splitlines()[-1] == (
        "luoemu: a fault of luoemu itself (ZeroDivisionError): please report the traceback"
    )


@pytest.mark.parametrize("options", [(), ("--trap-opens",)])
def test_fault_in_a_call_of_live_update_ends_the_machine(options: tuple[str, ...]) -> None:
    assert_reported(run_with_fault("Kernel.ioctl", 'create(device(), b"s")', *options))


def test_fault_in_a_call_of_a_device_ends_the_machine(run_devices: RunDevices) -> None:
    """The caller waits for FUSE's answer, in which the kernel does not let a signal end it."""
    source = """
        from raw_vfio import *
        fcntl.ioctl(os.open("/dev/vfio/vfio", os.O_RDWR), vfio.VFIO_GET_API_VERSION)
    """
    assert_reported(run_with_fault("Vfio.ioctl", source, *DEVICE))


def test_fault_at_a_close_while_the_machine_ends_is_reported() -> None:
    assert_reported(run_with_fault("Kernel.release", 'held = create(device(), b"s"); os._exit(0)'))


def test_fault_in_the_kexec_is_reported() -> None:
    assert_reported(run_with_fault("Kernel.jump", "jump()"))


def test_directories_of_devices_have_no_ioctls(run_devices: RunDevices) -> None:
    source = """
        take(DEVICE)                            # from now on there is /dev/vfio/devices
        getflags = 0x80086601                   # FS_IOC_GETFLAGS, of lsattr(1)
        for place in ("/dev/vfio", "/dev/vfio/devices", "/sys/bus/pci", "/sys/bus/pci/devices"):
            directory = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
            for command in (getflags, vfio.VFIO_GET_API_VERSION, iommufd.IOMMU_DESTROY, 0xBA00):
                assert errno_of(fcntl.ioctl, directory, command, bytearray(64)) == errno.ENOTTY, (place, command)
    """
    run_devices(source)
