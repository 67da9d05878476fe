"""The driver vfio-pci: its device files, interrupts, configuration space, and resets of several devices."""
