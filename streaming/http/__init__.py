"""An HTTP/1.1 client over timestamped sockets. Uses the standard library only."""
