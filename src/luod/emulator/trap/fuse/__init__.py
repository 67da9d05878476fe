"""FUSE in user space: the protocol on /dev/fuse, and a tree of files on top of it."""
