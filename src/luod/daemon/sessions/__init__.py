"""The calls of programs on sessions: names, claims, owners, manifests, and files held for a restart."""
