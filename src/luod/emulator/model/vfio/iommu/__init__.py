"""The IOMMU: groups, I/O address spaces, what is mapped in them, and the objects of one iommufd."""
