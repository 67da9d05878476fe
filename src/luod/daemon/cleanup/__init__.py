"""Incoming sessions without a claimant: reaped, or preserved again for the next kexec, by processes of luod's own."""
