"""Providers that need no network: the simulator and the replay of traces."""
