"""The real kernel as a machine to test on: a virtual one that boots a Linux with LUO, and jumps by kexec.

QEMU runs the image of `make kernel` with the host's root, read-only, and with the agent as init as in the emulated
machine, under the host's Python. What a program writes stays in the virtual machine's memory, except in directories
that are shared for writing. By hand: `python -m luod.testing.kernel -- COMMAND…`.

`machine` is the machine, `qemu` its command line, `initramfs` what it boots into, `child` QEMU's process.
"""

from luod.testing.kernel.machine import KernelMachine

__all__ = ["KernelMachine"]
