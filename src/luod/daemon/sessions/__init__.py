"""What programs may do with sessions: names, claims, owners, manifests, and files held for a restart."""
