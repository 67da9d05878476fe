"""The modelled kernel: LUO, its memfd handler and kexec, as plain classes without any system call.

`Kernel` (kernel.py) is one boot. Its ports to the outside are in ports.py and caller.py. `luod.emulator.trap` drives
it.
"""
