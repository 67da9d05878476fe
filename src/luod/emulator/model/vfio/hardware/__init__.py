"""Devices as hardware: their description, configuration space and registers, and the board that connects them."""
