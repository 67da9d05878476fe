"""Devices as hardware: how one is described, its configuration space, its registers, and the board they are on."""
