"""luod: the supervisor, which holds every session fd and parses nothing, and `serve`, which answers clients and may
die.

Nothing is imported here: the supervisor must stay small, so each program imports only what it needs. Clients never
import this package; they use it over the sockets (`luod.ipc`).
"""
