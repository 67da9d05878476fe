"""The kernel that is not there: LUO, its memfd handler and kexec, as plain classes without any system call.

`Kernel` (kernel.py) is one boot; its ports to the world are in ports.py and caller.py. `luod.emulator.trap` drives it.
"""
