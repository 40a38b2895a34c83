"""Requests as bytes for timestamped sockets, and the decoding of their responses."""
