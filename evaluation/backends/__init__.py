"""Backends: how a trial's request is sent and its response timed."""
