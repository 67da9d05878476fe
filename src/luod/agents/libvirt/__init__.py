"""The agent of libvirt: carries a domain of an unmodified libvirt through kernel updates (docs/libvirt.md)."""
