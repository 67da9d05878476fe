"""luod carries the memory and the devices of running programs across a kernel update."""
