"""The core: the path of one answer from a provider's events to a reader. Uses the standard library only."""
