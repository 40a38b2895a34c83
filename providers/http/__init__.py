"""The HTTP side of all dialects: client options, transport, errors."""
