"""Child processes of serve: the gate at which one waits, and what starts it, waits for it and kills it."""
