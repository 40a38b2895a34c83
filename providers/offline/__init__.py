"""Providers that need no network: the simulated and the replayed one."""
