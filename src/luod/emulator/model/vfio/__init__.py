"""VFIO, PCI and iommufd of the kernel that is not there: devices, their files, and how they go through a live update.

`bus.Bus` is the hardware, which outlives every jump; `vfio.Vfio` is one boot's side of it and all that `trap` drives.
What both need of the world is in ports.py. Imported only by a machine that has devices.
"""
