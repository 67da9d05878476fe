"""The emulated machine: `machine` boots it, `trap` brings a process's system calls to `model`, the kernel that is not there.

Nothing outside this package imports it but `luod.testing`; see docs/design.md.
"""
