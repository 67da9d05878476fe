"""`luod`: the process that holds every session fd and the listening sockets, and starts serve."""
