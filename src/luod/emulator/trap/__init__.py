"""Brings the system calls of a machine's processes to `model`: seccomp notifications, FUSE, access to memory and fds.

One thread with one epoll does it (`supervisor.py`). Namespaces and the start of a machine are in `machine`.
"""
