"""The policy of luod for users, from /etc/luod/luod.toml. Without that file: safe defaults.

`file` reads and checks the text, `rules` applies it to a peer, `membership` finds the cgroup of a peer, `current` is
the policy in force and its reload. This package changes nothing outside itself.
"""
