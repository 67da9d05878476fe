"""luod: `keep`, which holds every session fd and parses nothing, and `serve`, which answers clients and may die.

Nothing is imported here: `keep` must stay small, so each program imports only what it needs. Clients never import
this package; they talk to it over the sockets (`luod.ipc`).
"""
