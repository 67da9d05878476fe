"""The last update by session and phase, recorded as it happens."""
