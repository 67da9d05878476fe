"""What the agents of QEMU and of libvirt have in common: a QEMU's guest in an update, by its monitor and its RAM."""
