"""The client's side: exchanges without I/O, and the connections that run them, blocking and with asyncio."""
