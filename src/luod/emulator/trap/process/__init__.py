"""A process that made a trapped call: its memory, its fds, and the placeholders in it for files of the model."""
