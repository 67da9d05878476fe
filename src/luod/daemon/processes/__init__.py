"""Child processes of luod: how one waits at its gate, and how it is signalled and reaped."""
