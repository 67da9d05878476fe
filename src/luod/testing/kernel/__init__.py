"""The real kernel as a machine to test on: a virtual machine that boots a Linux with LUO, and does a real kexec.

QEMU runs the image of `make kernel` with the host's root, read-only. The agent is init as in the emulated machine,
under the host's Python. Files that a program writes stay in the virtual machine's memory, except in directories that
are shared for writing. By hand: `python -m luod.testing.kernel -- COMMAND…`.

`machine` is the machine, `qemu` its command line, `initramfs` its initial RAM disk, `child` QEMU's process.
"""

from luod.testing.kernel.machine import KernelMachine

__all__ = ["KernelMachine"]
