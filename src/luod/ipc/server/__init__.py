"""The server's side of the wire: connections, fairness, fds from clients, calls and replies. It knows no method."""
