"""An update: its participants, its phases and votes, the image to load, and reboot(2)."""
