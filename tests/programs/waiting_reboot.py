"""Calls reboot(2) for a kexec while an unbind of a VFIO device waits for its file, and then closes the file.

Arguments: the PCI addresses of two devices that vfio-pci has, the image, and its initrd or "". A real kernel shuts down
the devices that lead out of the machine first, so the answers go into preserved memory. Without arguments, in the next
kernel, the program prints them: JSON.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import mmap
import os
import sys
from pathlib import Path

from luod import linux
from luod.uapi import kexec, vfio
from tests.programs import raw_vfio
from tests.programs.raw import create, device, get_name, mmap_library, preserve, retrieve, retrieve_session
from tests.programs.waiting import Later, attempt, can_open, write_to

SIZE = 1 << 16
PAGE = 4096
MCL_CURRENT, MCL_FUTURE = 1, 2
pci = Path("/sys/bus/pci")
driver = pci / "drivers/vfio-pci"


def reboot(command: int, magic: int = kexec.LINUX_REBOOT_MAGIC1, argument: int = 0) -> int:
    return linux.syscall("reboot", magic, kexec.LINUX_REBOOT_MAGIC2, command, argument)


def restart(text: bytes) -> object:
    """Asks for a restart with `text`, behind which nothing can be read."""
    library = mmap_library()
    page = library.mmap(None, 2 * PAGE, mmap.PROT_WRITE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0)
    library.munmap(ctypes.c_void_p(page + PAGE), PAGE)
    address = page + PAGE - len(text)
    ctypes.memmove(address, text, len(text))
    return attempt(lambda: reboot(kexec.LINUX_REBOOT_CMD_RESTART2, argument=address))


def load(kernel: int, initrd: int) -> int:
    line = Path("/proc/cmdline").read_bytes().strip() + b"\0"
    flags = kexec.KEXEC_FILE_NO_INITRAMFS if initrd < 0 else 0
    return linux.syscall("kexec_file_load", kernel, initrd, len(line), line, flags)


def bus_master(address: str) -> bool:
    return bool((pci / "devices" / address / "config").read_bytes()[4] & 4)


def as_master(address: str) -> int:
    file = os.open(raw_vfio.path_of(address), os.O_RDWR)
    raw_vfio.bind(file, raw_vfio.open_iommufd())
    raw_vfio.become_master(file)
    return file


def ask(first: str, second: str, kernel: int, initrd: int) -> None:
    load(kernel, initrd)
    files = {address: as_master(address) for address in (first, second)}
    path = raw_vfio.path_of(second)
    node = device()
    session = create(node, b"answers")
    memory = os.memfd_create("answers", os.MFD_CLOEXEC | 0x10)
    os.ftruncate(memory, SIZE)
    preserve(session, memory, 1)
    # Nothing is read from a file system from here on.
    assert ctypes.CDLL(None).mlockall(MCL_CURRENT | MCL_FUTURE) == 0
    restarts = [restart(b""), restart(b"bootloader"), restart(b"x" * 254)]
    masters = [bus_master(address) for address in files]
    unbind = Later(lambda: write_to(driver / "unbind", first))
    jump = Later(lambda: reboot(kexec.LINUX_REBOOT_CMD_KEXEC))
    answers = {
        "restart": restarts,
        "waits": [unbind.soon, jump.soon],
        "bus masters": [masters, [bus_master(address) for address in files]],
        "load": attempt(lambda: load(kernel, initrd)),
        "reboot with a wrong number": Later(lambda: reboot(kexec.LINUX_REBOOT_CMD_KEXEC, magic=1)).soon,
        "reboot with no command": Later(lambda: reboot(0x1234)).soon,
        "reboot for ctrl-alt-del": Later(lambda: reboot(kexec.LINUX_REBOOT_CMD_CAD_OFF)).soon,
        "a second jump": Later(lambda: reboot(kexec.LINUX_REBOOT_CMD_KEXEC)).soon,
        "name": Later(lambda: get_name(session).decode()).soon,
        "create": Later(lambda: create(node, b"after")).soon,
        "the other device": attempt(lambda: raw_vfio.get_info(files[second])[2]),
        "a reset of the other device": Later(lambda: fcntl.ioctl(files[second], vfio.VFIO_DEVICE_RESET)).soon,
        "another file of the other device": can_open(path),
    }
    os.close(files[second])
    answers |= {
        "an unbind of the other device": Later(lambda: write_to(driver / "unbind", second)).soon,
        "a bind of the other device": Later(lambda: write_to(driver / "bind", second)).soon,
        "a probe of the other device": Later(lambda: write_to(pci / "drivers_probe", second)).soon,
        "its driver": (pci / "devices" / second / "driver").exists(),
        "rescan": Later(lambda: write_to(pci / "rescan", "1")).soon,
        "in the end": [unbind.result, jump.result],
    }
    os.pwrite(memory, json.dumps(answers).encode(), 0)
    os.close(files[first])
    jump.join()


if len(sys.argv) > 1:
    disk = os.open(sys.argv[4], os.O_RDONLY) if sys.argv[4] else -1
    ask(sys.argv[1], sys.argv[2], os.open(sys.argv[3], os.O_RDONLY), disk)
else:
    carried = retrieve_session(device(), b"answers")
    print(mmap.mmap(retrieve(carried, 1), SIZE)[:].rstrip(b"\0").decode())
