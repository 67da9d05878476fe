"""What the kernel headers say, as data: one module a header. No system call is made here."""
