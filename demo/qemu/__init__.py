"""`make demo-qemu`: a guest of an unmodified QEMU lives through a kernel update. `scenario` is the story."""
