"""The model's VFIO, iommufd and sysfs files, which processes open, read and map."""
