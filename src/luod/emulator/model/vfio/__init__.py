"""VFIO, PCI and iommufd of the kernel that is not there: devices, their files, and how they go through a live update.

`bus.Bus` is the hardware, which outlives every jump; `vfio.Vfio` is one boot's side of it, and all that `trap` drives.
Their ports to the world are in ports.py. Only a machine with devices imports the package.
"""
