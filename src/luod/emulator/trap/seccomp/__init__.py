"""Seccomp: the filter as BPF, its notifications, and how a trapped open is answered."""
