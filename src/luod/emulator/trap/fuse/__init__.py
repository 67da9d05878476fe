"""FUSE in user space: the protocol on /dev/fuse, and a tree of files that is served with it."""
