"""What luod remembers and holds across its own death and the kexec: the registry, its copies, the fds."""
