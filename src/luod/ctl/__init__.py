"""luoctl, the tool an operator runs.

`main` reads the command line, of which `parser` is the grammar, and turns errors into an exit status (`exits`);
`verbs` has a module for each verb, `admin` makes the calls of the admin socket, and `output` prints text or JSON.
luoctl makes no live-update call itself: it asks luod. No other package imports it.
"""
