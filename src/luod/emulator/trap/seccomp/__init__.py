"""Seccomp: the filter as BPF, its notifications, and the answer to a trapped open."""
