"""luoctl, the tool an operator runs.

`main` reads the command line and turns what went wrong into an exit status; `commands` holds what each command does;
`admin` is the admin socket's interface as types; `output` is what is printed, for people and as JSON. luoctl knows
nothing of sessions' contents and makes no live-update call itself: it asks luod. Nobody imports it.
"""
