"""A simulator of the vendors' servers with known timing. It always identifies its answers as simulated."""
