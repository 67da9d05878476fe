"""The command line of a QEMU that runs a real kernel, and the path of the kernel.

QEMU runs without KVM, so that it works in a virtual machine too. Half of 1 GiB is kexec handover's scratch memory.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from luod.errors import MachineUnavailable
from luod.testing.kernel.initramfs import HOST_TAG, Share

KERNEL_VARIABLE: Final = "LUOD_KERNEL"
"""The environment variable with the image, or with the folder of `bzImage` that `kernel/build` prints."""
COMMAND_LINE: Final = "console=ttyS0 liveupdate=on kho=on panic=-1 no_timer_check"
"""A panic ends QEMU (with -no-reboot) instead of hanging.

On a busy host the kernel's check of the timer would panic.
"""

_PROCESSOR: Final = "max,erms=off"
"""QEMU emulates `rep movsb` and `rep stosb` byte by byte. Without ERMS the kernel clears and copies pages by words, and
a kexec takes half the time.
"""
_ACCELERATOR: Final = "tcg,thread=single"
"""Emulates all processors in one thread. With a thread for each, a processor that waits for another in a loop takes the
time that the other needs, where the host has fewer free processors: an update then takes three times as long.
"""
_CHIPSET: Final = "q35,i8042=off"
"""The next kernel would wait for a PS/2 controller that a kexec interrupted."""

_PROGRAM: Final = "qemu-system-x86_64"


def kernel_image() -> str:
    """Returns the path of the kernel to boot: $LUOD_KERNEL, or the last one of `make kernel`.

    Raises MachineUnavailable.
    """
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    path = Path(os.environ.get(KERNEL_VARIABLE) or Path(cache, "luod", "kernel", "current"))
    image = path / "bzImage" if path.is_dir() else path
    if not image.is_file():
        raise MachineUnavailable(
            f"there is no kernel image at {image}",
            hint=f"make kernel builds one; {KERNEL_VARIABLE} names another",
        )
    return str(image.resolve())


def program() -> str:
    """Returns the path of QEMU. Raises MachineUnavailable if it is missing."""
    path = shutil.which(_PROGRAM)
    if path is None:
        raise MachineUnavailable(f"needs {_PROGRAM}, of the Debian package qemu-system-x86")
    return path


def command(
    program: str,
    *,
    kernel: str,
    initrd: str | None,
    command_line: str,
    memory: str,
    processors: int,
    serial_log: str,
    agent_fd: int,
    shares: Sequence[Share],
    disk: str | None,
    arguments: Sequence[str],
) -> list[str]:
    """Returns the argv that boots `kernel`.

    `agent_fd`, a connected stream socket to inherit, becomes the agent's port. `disk` is an image with the root file
    system, which is not changed; without one the host's root is shared.
    """
    # QEMU would outlive its parent, with a machine that hangs.
    setpriv = shutil.which("setpriv")
    bound = [] if setpriv is None else [setpriv, "--pdeathsig", "KILL"]
    machine = [*bound, program, "-M", _CHIPSET, "-accel", _ACCELERATOR, "-cpu", _PROCESSOR]
    machine += ["-smp", str(processors), "-m", memory]
    quiet = ["-nodefaults", "-no-reboot", "-display", "none"]
    boot = ["-kernel", kernel, "-append", command_line, "-serial", f"file:{_escaped(serial_log)}"]
    boot += [] if initrd is None else ["-initrd", initrd]
    port = ["-device", "virtio-serial-pci", "-chardev", f"socket,id=agent,fd={agent_fd}"]
    port += ["-device", "virtserialport,chardev=agent,name=luod.agent"]
    files = (
        _share(HOST_TAG, "/", "readonly=on,multidevs=remap")
        if disk is None
        else ["-drive", f"file={_escaped(disk)},format=raw,if=virtio,snapshot=on"]
    )
    for share in shares:
        files += _share(share.tag, share.path, "multidevs=remap")
    return [*machine, *quiet, *boot, *port, *files, "-device", "virtio-rng-pci", *arguments]


def _share(tag: str, path: str, options: str) -> list[str]:
    return [
        *("-fsdev", f"local,id={tag},path={_escaped(path)},security_model=none,{options}"),
        *("-device", f"virtio-9p-pci,fsdev={tag},mount_tag={tag}"),
    ]


def _escaped(value: str) -> str:
    """Returns a value with its commas escaped for QEMU's option parser."""
    return value.replace(",", ",,")
