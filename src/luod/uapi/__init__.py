"""The kernel's headers as data: one module for each header. No system call is made here."""
