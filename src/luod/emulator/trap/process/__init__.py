"""A process that made a trapped call: its memory, its fds, and the files that stand for files of the model in it."""
