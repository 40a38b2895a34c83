"""The HTTP service: the same answers as everywhere, over Server-Sent Events and JSON."""
