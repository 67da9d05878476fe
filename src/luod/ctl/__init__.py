"""luoctl, the tool an operator runs.

`main` reads the command line, of which `parser` is the grammar, and turns errors into an exit status (`exits`);
`verbs` has a module for each verb; `admin` is the admin socket's interface as types; `output` is what is printed, for
people and as JSON. luoctl makes no live-update call itself: it asks luod. Nobody imports it.
"""
