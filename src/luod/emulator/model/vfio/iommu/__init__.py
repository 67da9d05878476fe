"""The IOMMU: groups, I/O address spaces, mappings, and the objects of one iommufd."""
