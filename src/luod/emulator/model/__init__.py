"""The kernel that is not there: LUO, its memfd handler and kexec, as plain classes without any system call.

`Kernel` (kernel.py) is one boot; what it needs of the world is in ports.py. Driven by `luod.emulator.trap`, and tests.
"""
