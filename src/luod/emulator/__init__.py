"""The emulated machine. `machine` boots it, `trap` brings a process's system calls to `model`, the kernel that is not
there. Only `luod.testing` imports it from outside; see docs/design.md.
"""
