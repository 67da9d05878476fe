"""The protocol between luod and its clients: Varlink over a unix stream socket, with fds by systemd's convention.

`framing` converts between messages and bytes with fds. `client` has the blocking and the asyncio connection, and the
exchanges of programs step by step; both need only the standard library. `interfaces` has the interfaces as types, from
which the `.varlink` files beside them are generated. `server` is luod's side. Importing this package imports none of
its modules: a blocking client must not load asyncio.
"""
