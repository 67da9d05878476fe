"""A Linux guest: the kernel of `make kernel`, busybox, and an init that counts on the serial console.

It fills memory, and checks it against a checksum again and again, beside the count. The lines of the console:

    filled 268435456 35d91262b3c3ec8841b54169588c97f7
    1
    2
    intact 1 11.52            a checksum was the same again, at this uptime of the guest in seconds
    clock 12.01 1764272702 1764272702 12010000000 34736690782482

The last has the uptime (CLOCK_BOOTTIME), CLOCK_REALTIME and the hardware clock in seconds since 1970, CLOCK_MONOTONIC
in nanoseconds, and the time stamp counter of the processor.

Where it has network devices it answers on port 7 with what it is sent: the first one has the address 10.0.2.15, which
-netdev user gives, the second one 192.168.77.2. Used by the demo, by tests/agents/qemu and by bench/.
"""

from __future__ import annotations

import stat
from dataclasses import dataclass
from pathlib import Path

from luod.testing.kernel.initramfs import Archive, static_busybox
from luod.testing.kernel.qemu import kernel_image

_INIT = """\
#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t tmpfs -o size={kibibytes}k,huge=always memory /memory
for each in "eth0 10.0.2.15" "eth1 192.168.77.2"; do
    [ ! -e /sys/class/net/${{each% *}} ] || ifconfig $each netmask 255.255.255.0 up
done
nc -ll -p 7 -e cat &
if [ -x /bin/sum64 ]; then
    sum64 fill >/memory/data
else
    # Random bytes are slow to make on an emulated processor. With a number before each copy no page is as another.
    head -c 1024k {source} >/block
    copy=0
    while [ $((copy += 1)) -le $(({kibibytes} / 1024)) ]; do echo $copy && cat /block; done |
        head -c {kibibytes}k >/memory/data
    rm /block
fi
sum() {{ if [ -x /bin/sum64 ]; then sum64 </memory/data | od -An -tx8 | tr -d ' '; else md5sum </memory/data; fi; }}
clock() {{
    read up idle </proc/uptime
    now=$(awk '/^now at/ {{print $3}}' /proc/timer_list)
    echo "clock $up $(date +%s) $(cat /sys/class/rtc/rtc0/since_epoch) $now $(tsc | od -An -tu8)"
}}
if [ {check} = 1 ]; then
    expected=$(sum)
    echo "filled $(stat -c %s /memory/data) ${{expected%% *}}"
    (
        checks=0
        while [ "$(sum)" = "$expected" ]; do
            read up idle </proc/uptime
            echo "intact $((checks += 1)) $up"
        done
        echo damaged
    ) &
else
    echo "filled $(stat -c %s /memory/data)"
fi
[ {clocks} = 0 ] || while :; do clock; sleep 1; done &
number=0
while echo $((number += 1)); do {pause}; done
"""


@dataclass(frozen=True)
class LinuxGuest:
    """A guest, by what it does.

    `mebibytes` of memory are filled: with random bytes and a checksum if `check`, else with zeros. A number is printed
    every `interval` seconds, or as fast as it can with 0. `memory` is the size of the guest's RAM in MiB. `tsc`: a
    program that prints the time stamp counter in 8 bytes; with it the clocks are printed every second. `sum`: a program
    that prints a checksum of its input in 8 bytes, in place of md5sum, and with an argument fills its output.
    """

    mebibytes: int
    memory: int
    check: bool = True
    interval: float = 0.05
    tsc: bytes = b""
    sum: bytes = b""

    def initramfs(self) -> bytes:
        """Returns its initial RAM disk. Raises MachineUnavailable without a static busybox."""
        init = _INIT.format(
            kibibytes=self.mebibytes << 10,
            source="/dev/urandom" if self.check else "/dev/zero",
            check=int(self.check),
            clocks=int(bool(self.tsc)),
            pause=f"usleep {round(self.interval * 1e6)}" if self.interval else ":",
        )
        archive = Archive()
        for folder in ("bin", "dev", "proc", "sys", "memory"):
            archive.add(folder, stat.S_IFDIR | 0o755)
        archive.add("dev/console", stat.S_IFCHR | 0o600, device=(5, 1))
        archive.add("bin/busybox", stat.S_IFREG | 0o755, data=static_busybox())
        for name, program in (("tsc", self.tsc), ("sum64", self.sum)):
            if program:
                archive.add(f"bin/{name}", stat.S_IFREG | 0o755, data=program)
        archive.add("init", stat.S_IFREG | 0o755, data=init.encode())
        return archive.finished()

    def arguments(self, folder: Path) -> list[str]:
        """Returns QEMU's arguments but those of the console, and puts the initial RAM disk into `folder`.

        Raises MachineUnavailable without a kernel.
        """
        ram_disk = folder / "initramfs"
        ram_disk.write_bytes(self.initramfs())
        boot = ["-kernel", kernel_image(), "-initrd", str(ram_disk)]
        boot += ["-append", "console=ttyS0 quiet no_timer_check panic=-1 kho=off"]
        # As luod.testing.kernel: without ERMS the kernel copies by words, which QEMU emulates faster.
        return [
            "-machine",
            "q35",
            "-cpu",
            "max,erms=off",
            "-m",
            f"{self.memory}M",
            "-nodefaults",
            "-display",
            "none",
            *boot,
        ]
