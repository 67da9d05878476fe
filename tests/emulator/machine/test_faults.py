"""A fault of luoemu itself is reported at once, and ends the machine; a shortage around it does not.

The fault is put into the model, or into another part of luoemu.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable

import pytest

from luod.emulator.machine.machine import FAILED
from tests.emulator.machine import forks
from tests.emulator.machine.conftest import DEVICE, RunDevices, environment, interpreter, python

Run = Callable[..., "subprocess.CompletedProcess[str]"]

_FAULTY = """
import errno, sys
from luod.emulator.machine import capabilities, nodes
from luod.emulator.machine.main import main
from luod.emulator.model.kernel import Kernel
from luod.emulator.model.vfio.vfio import Vfio
from luod.emulator.trap.devices import opener

def fails(*arguments, **_):
    raise {fault}

{call} = fails
sys.exit(main(["run", *sys.argv[1:]]))
"""
_SECONDS = 60


def run_with_fault(
    call: str, source: str, *options: str, fault: str = 'ZeroDivisionError("the model\'s fault")'
) -> subprocess.CompletedProcess[str]:
    """Runs a machine whose model raises in `call`."""
    faulty = _FAULTY.format(call=call, fault=fault)
    command = [interpreter(None).executable, "-c", faulty, *options, "--", *python(source)]
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


@pytest.mark.parametrize("call", ["nodes.furnish", "capabilities.withhold"])
def test_fault_in_a_process_that_starts_the_machine_is_reported(call: str) -> None:
    assert_reported(run_with_fault(call, "pass"))


def test_failure_of_the_process_that_opens_devices_is_reported(run_devices: RunDevices) -> None:
    source = """
        from raw_vfio import *
        take(DEVICE)
        device_of(open_type1()[0])
    """
    # It fails at the first request, in the middle of a boot.
    done = run_with_fault("opener.serve", source, *DEVICE, fault="OSError(5, f'failed at {arguments[0].recv(99)}')")
    assert done.returncode == FAILED
    assert done.stderr.splitlines()[-1].startswith("luoemu: failed at b'")


@pytest.mark.parametrize(("lacking", "told"), [("EMFILE", "ENFILE"), ("ENFILE", "ENFILE"), ("ENOMEM", "ENOMEM")])
def test_caller_is_told_what_luoemu_lacks_for_a_call(lacking: str, told: str) -> None:
    source = f"assert errno_of(create, device(), b's') == errno.{told}"
    done = run_with_fault("Kernel.ioctl", source, fault=f"OSError(errno.{lacking}, '')")
    assert done.returncode == 0, done.stderr


def test_log_that_nobody_reads_ends_no_machine() -> None:
    source = "os.write(1, b'%d\\n' % BOOT)\nif BOOT == 1: jump()"
    reader, writer = os.pipe()
    os.close(reader)
    words = (interpreter(None), ["--kernel-log"], python(source), environment())
    try:
        with forks.started(*words, stderr=writer) as machine:
            assert machine.stdout.read() == "1\n2\n"
            assert machine.process.wait(30) == 0
    finally:
        os.close(writer)


def test_state_of_kexec_that_cannot_be_shown_ends_no_machine(run_machine: Run) -> None:
    """Root inside may empty the file and fill the file system."""
    source = """
        import ctypes
        libc = ctypes.CDLL(None, use_errno=True)
        MS_NOSUID, MS_NODEV, MS_REMOUNT = 2, 4, 32
        loaded = "/run/luoemu/kexec_loaded"
        os.truncate(loaded, 0)
        run = os.statvfs("/run")
        size = b"size=%d" % ((run.f_blocks - run.f_bfree) * run.f_bsize)
        assert libc.mount(b"none", b"/run", None, MS_REMOUNT | MS_NOSUID | MS_NODEV, size) == 0, ctypes.get_errno()
        load()
        assert open(loaded).read() == ""
        load()
        assert libc.mount(b"none", b"/run", None, MS_REMOUNT | MS_NOSUID | MS_NODEV, b"size=1m") == 0
        load()
        assert open(loaded).read() == "1\\n"
    """
    done = run_machine(source)
    assert done.returncode == 0, done.stderr
    words = "luoemu: /run/luoemu/kexec_loaded cannot be written, and does not show 1: No space left on device"
    assert done.stderr.splitlines().count(words) == 1


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
