"""What luod allows whom, as the operator wrote it in /etc/luod/luod.toml. Without that file: safe defaults.

`file` reads and judges the text, `rules` says what follows from it for a peer, `membership` where a peer runs,
`current` is the policy in force and its reload. This package changes nothing outside itself.
"""
