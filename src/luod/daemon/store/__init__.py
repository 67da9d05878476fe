"""luod's state over its own restart and the kexec: the registry, its copies, the fds."""
