"""The agent of QEMU: carries a guest of an unmodified QEMU through kernel updates (docs/qemu.md)."""
