"""VFIO, iommufd and sysfs files of the model as files that processes open, read and map."""
