"""The part of /sys with the devices: its files, and the effect of writes."""
