"""The core: one answer's way from a provider's events to a reader, on the standard library alone."""
