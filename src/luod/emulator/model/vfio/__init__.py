"""VFIO, PCI and iommufd of the modelled kernel: devices, their files, and their way through a live update.

`bus.Bus` is the hardware, which outlives every kexec. `vfio.Vfio` is one boot's side of it, and all that `trap` drives.
Their ports to the outside are in ports.py. Only a machine with devices imports the package.
"""
