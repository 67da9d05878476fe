"""The last update by session and phase, recorded while it happens."""
