"""How the system calls of a machine's processes reach `model`: seccomp notifications, FUSE, their memory and fds.

One thread, one epoll (`supervisor.py`). Namespaces, and how a machine is started, are `machine`'s.
"""
