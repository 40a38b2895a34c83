"""Decoders: the bytes of a response to events, one feed/flush machine per dialect."""
