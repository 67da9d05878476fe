"""Unclaimed incoming sessions: luod's own processes discard them, or preserve them again for the next kexec."""
