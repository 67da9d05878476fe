"""What luod and its clients say to each other: Varlink over a unix stream socket, fds passed by systemd's convention.

`framing` turns messages into bytes with fds. `client` has the blocking and the asyncio connection, and what programs
ask step by step; both need the standard library only. `interfaces` has the interfaces as types, from which the
`.varlink` files beside them are generated. `server` is luod's side. Importing this package imports none of them: a
blocking client must not pay for asyncio.
"""
