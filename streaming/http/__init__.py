"""HTTP/1.1 over timestamped sockets, on the standard library alone."""
