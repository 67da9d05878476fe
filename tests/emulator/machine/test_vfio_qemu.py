"""An unmodified QEMU has the device, through its group or an iommufd: a guest's accesses reach it, and its DMA the
guest's memory.

The guest does not run: QEMU's own test protocol makes its accesses.
"""

from __future__ import annotations

import os
import subprocess
import textwrap

import pytest

from luod.testing.tools import require_tool
from tests.emulator.machine.conftest import RunDevices

BAR = 0xE0000000
"""Where the guest puts it."""

QEMU = f"""
    import subprocess
    from luod.testing.waiting import eventually

    class Guest:
        def __init__(self, program, *options):
            command = [program, "-M", "q35", "-accel", "tcg", "-S", "-m", "64", "-nodefaults", "-display", "none"]
            command += [*options, "-qtest", "stdio", "-qtest-log", "none"]
            pipe = subprocess.PIPE
            self.qemu = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, close_fds=False)

        def ask(self, *words):
            print(*words, file=self.qemu.stdin, flush=True)
            while (answer := self.qemu.stdout.readline()).startswith("IRQ"):
                pass
            assert answer.startswith("OK"), (words, answer)
            return int((answer.split() + ["0"])[1], 0)

        def computes(self):
            # The firmware's part, by ports: the BAR's address, and memory and bus mastering on.
            for port, value in ((0xCF8, 0x80000810), (0xCFC, {BAR}), (0xCF8, 0x80000804), (0xCFC, 0x6)):
                self.ask("outl", port, value)
            assert self.ask("readl", {BAR}) == int.from_bytes(b"LUOD", "little")
            self.ask("write", 0x100000, 4, "0x01020304")
            for register, value in ((SOURCE, 0x100000), (DESTINATION, 0x101000), (LENGTH, 4), (VALUE, 0)):
                self.ask("writeq", {BAR} + register, value)
            self.ask("writel", {BAR} + DOORBELL, SUM)
            eventually(lambda: not self.ask("readl", {BAR} + DOORBELL), describe="the device has copied")
            assert self.ask("readl", {BAR} + STATUS) == 1
            assert self.ask("readq", 0x101000) == 10
            return self.ask("readl", {BAR} + COUNT)

        def end(self):
            self.qemu.kill()
            self.qemu.communicate()
"""


def qemu_with_iommufd() -> str:
    """Returns the path of a QEMU that has iommufd: of LUOD_NEWER_QEMU (`scripts/fetch-qemu`), or the machine's own."""
    qemu = os.environ.get("LUOD_NEWER_QEMU") or require_tool("qemu-system-x86_64", package="qemu-system-x86")
    known = subprocess.run([qemu, "-object", "help"], capture_output=True, text=True, check=True).stdout.split()
    if "iommufd" not in known:
        pytest.skip("the QEMU of this host has no iommufd: LUOD_NEWER_QEMU=$(scripts/fetch-qemu) names one that has")
    return qemu


def program(source: str) -> str:
    return textwrap.dedent(QEMU) + textwrap.dedent(source)


@pytest.mark.parametrize("option", ["", ",x-no-mmap=on"])
def test_qemu_has_the_device_do_dma_in_guest_memory(run_devices: RunDevices, option: str) -> None:
    qemu = require_tool("qemu-system-x86_64", package="qemu-system-x86")
    source = f"""
        take()
        guest = Guest("{qemu}", "-device", "vfio-pci,host=" + DEVICE + ",addr=1{option}")
        guest.computes()
        guest.end()
    """
    run_devices(program(source))


def test_qemu_has_the_device_by_its_file_and_an_iommufd_over_a_kexec(run_devices: RunDevices) -> None:
    """The holder of the files gives them to QEMU (`fd=`), preserves the device, and gives QEMU the retrieved one."""
    qemu = qemu_with_iommufd()
    source = f"""
        import raw
        from luod import vfio as luod_vfio

        def run(file):
            context = open_iommufd()
            for fd in (file, context):
                os.set_inheritable(fd, True)
            # QEMU 11.1 needs an id for a device that is given by a file.
            device = f"vfio-pci,id=nic,fd={{file}},iommufd=dma,addr=1"
            return Guest("{qemu}", "-object", f"iommufd,id=dma,fd={{context}}", "-device", device)

        take()
        if raw.BOOT == 1:
            file = os.open(path_of(), os.O_RDWR | os.O_CLOEXEC)
            guest = run(file)
            count = guest.computes()
            assert guest.computes() == count + 1
            session = raw.create(raw.device(), b"vm")
            raw.preserve(session, file, 1)
            guest.end()
            luod_vfio.quiesce(file)
            raw.jump()
        session = raw.retrieve_session(raw.device(), b"vm")
        file = raw.retrieve(session, 1)
        assert errno_of(raw.finish, session) == errno.EBUSY, "not bound"
        guest = run(file)
        guest.computes()
        raw.finish(session)
        guest.computes()
        guest.end()
    """
    run_devices(program(source))
