"""A guest of an unmodified QEMU lives through a kernel update: `make demo-qemu`. `linux_guest` is the guest."""
