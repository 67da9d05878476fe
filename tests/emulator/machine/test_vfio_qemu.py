"""An unmodified QEMU has the device, through its group: a guest's accesses reach it, and its DMA the guest's memory.

The guest does not run: QEMU's own test protocol makes its accesses.
"""

from __future__ import annotations

import pytest

from luod.testing.tools import require_tool
from tests.emulator.machine.conftest import RunDevices

BAR = 0xE0000000
"""Where the guest puts it."""


@pytest.mark.parametrize("option", ["", "x-no-mmap=on"])
def test_qemu_has_the_device_do_dma_in_guest_memory(run_devices: RunDevices, option: str) -> None:
    qemu = require_tool("qemu-system-x86_64", package="qemu-system-x86")
    source = f"""
        import subprocess
        from luod.testing.waiting import eventually
        take()
        device = "vfio-pci,host=" + DEVICE + ",addr=1,{option}"
        command = ["{qemu}", "-M", "q35", "-accel", "tcg", "-S", "-m", "64", "-nodefaults", "-display", "none"]
        command += ["-device", device.rstrip(","), "-qtest", "stdio", "-qtest-log", "none"]
        qemu = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

        def ask(*words):
            print(*words, file=qemu.stdin, flush=True)
            while (answer := qemu.stdout.readline()).startswith("IRQ"):
                pass
            assert answer.startswith("OK"), (words, answer)
            return int((answer.split() + ["0"])[1], 0)

        # The firmware's part, by ports: the BAR's address, and memory and bus mastering on.
        for port, value in ((0xCF8, 0x80000810), (0xCFC, {BAR}), (0xCF8, 0x80000804), (0xCFC, 0x6)):
            ask("outl", port, value)
        assert ask("readl", {BAR}) == int.from_bytes(b"LUOD", "little")
        ask("write", 0x100000, 4, "0x01020304")
        for register, value in ((SOURCE, 0x100000), (DESTINATION, 0x101000), (LENGTH, 4), (VALUE, 0)):
            ask("writeq", {BAR} + register, value)
        ask("writel", {BAR} + DOORBELL, SUM)
        eventually(lambda: not ask("readl", {BAR} + DOORBELL), describe="the device has copied")
        assert ask("readl", {BAR} + STATUS) == 1
        assert ask("readq", 0x101000) == 10
        qemu.kill()
        qemu.communicate()
    """
    run_devices(source)
