"""Child processes of serve: the gate at which one waits, and serve's side, which starts, awaits and kills it."""
