"""What /sys shows of the devices, and what writing to it does."""
