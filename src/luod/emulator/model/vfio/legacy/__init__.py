"""VFIO without iommufd: the files of groups and containers, and the type1 IOMMU."""
