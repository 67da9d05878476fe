"""The host's systemd, as luod asks it: what it would stop and drop, and the units around an update."""
