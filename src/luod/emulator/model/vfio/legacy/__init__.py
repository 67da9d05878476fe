"""VFIO as it was before iommufd: groups, the type1 container, and iommufd's emulation of it."""
