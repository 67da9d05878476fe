"""What luod and its clients say to each other: Varlink over a unix stream socket, fds passed by systemd's convention.

`framing` is the client's side of the bytes, `connection` its blocking socket, `exchange` what programs ask, step by
step: these three need the standard library only. `sessions` and `admin` are the interfaces as types, from which the
`.varlink` files beside them are generated, and `wire` is the server's side. Importing this package imports none of
them: a blocking client must not pay for asyncio.
"""
