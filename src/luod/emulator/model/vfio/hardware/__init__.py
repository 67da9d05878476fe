"""Devices as hardware: how one is described, its configuration space, and what its registers do."""
