"""Backends: how the request of a trial is sent and its response timed. `registry` lists them."""
